// The contract of every op, once, for both devices:
//
//   <op>(*tensors, options, reduction, gradients) -> [*losses, *saved, *gradients]
//   <op>_backward(*incoming, *saved, *tensors, options, reduction, gradients) -> [*gradients]
//   <op>_into(gradient!, *tensors, options, factor) -> total: factor * the sum of the losses, whose gradient for the
//     first tensor is written into `gradient`, which may be that tensor itself where the family allows it
//
// gradients: a bit mask over the tensors. A family (host/<family>.h) turns the tensors into a Problem; a device runs
// it.
#pragma once

#include <array>
#include <string_view>
#include <tuple>
#include <utility>

#include "host/check.h"
#include "host/problems.h"
#include "host/tensor.h"
#include "losses.h"

namespace fused_losses {

constexpr size_t kMostTensors = 6;

// One call of one op, its tensors contiguous and on one device.
struct Arguments {
  LossId id;
  std::array<OptionalTensor, kMostTensors> tensors;
  std::vector<Tensor> incoming;  // gradients of the losses, then what the forward saved; empty in the forward
  Options options;
  Reduction reduction = Reduction::kMean;
  int64_t gradients = 0;
  double factor = 1;  // of the losses, beside the reduction's

  const char* op() const { return loss_of(id).name; }
  const Tensor& first() const { return *tensors[0]; }
  bool wants(size_t position) const { return tensors[position] && (gradients >> position & 1) != 0; }
};

// What all families share. Device: `static Tensor output(const Tensor& like)`, a new tensor that a kernel will write.
template <class Device>
class Call {
 public:
  explicit Call(Arguments arguments) : a(std::move(arguments)) {}

 protected:
  Arguments a;

  // What `reduction` divides by: the items, or for "batchmean" the first dimension.
  void set_factors(Results* results, int64_t items) const {
    results->factor = a.factor;
    if (a.reduction == Reduction::kMean) results->denominator = static_cast<double>(items);
    if (a.reduction == Reduction::kBatchMean) {
      results->denominator = a.first().dim() > 0 ? static_cast<double>(a.first().size(0)) : 1;
    }
  }

  // Refuses "none" and "batchmean", which a loss of all rows together does not have.
  void check_reduces_all() const {
    if (a.reduction == Reduction::kMean || a.reduction == Reduction::kSum) return;
    refuse(a.op(), "reduction in [1, 2], got ", static_cast<int64_t>(a.reduction));
  }

  // The result of the reduction: a loss for each item of `shape`, or a scalar; `results` points at it.
  Tensor new_result(Results* results, const int64_t* shape, int64_t dims) {
    const Dtype dtype = accumulation_dtype(dtype_of(a.first()));
    if (a.reduction == Reduction::kNone) {
      Tensor losses = Device::output(a.first(), shape, dims, dtype);
      results->losses = losses.mutable_data_ptr();
      return losses;
    }
    Tensor total = new_tensor(a.first(), {}, dtype);
    results->total = total.mutable_data_ptr();
    return total;
  }

  void check_incoming_dtype(const Tensor& incoming) const {
    if (dtype_of(incoming) == accumulation_dtype(dtype_of(a.first()))) return;
    refuse(a.op(), "the incoming gradient in the accumulation dtype, got another");
  }

  // Points `results` at the gradient of a loss of `items` items.
  void read_incoming(Results* results, const Tensor& incoming, int64_t items) {
    results->per_item = a.reduction == Reduction::kNone;
    check_incoming_dtype(incoming);
    const int64_t expected = results->per_item ? items : 1;
    if (incoming.numel() != expected) {
      refuse(a.op(), "an incoming gradient of ", expected, " elements, got ", incoming.numel());
    }
    results->incoming = incoming.const_data_ptr();
  }

  // A new gradient of tensor `position` where it is wanted, at *data.
  void add_gradient(size_t position, void** data, std::vector<Tensor>* out) {
    if (!a.wants(position)) return;
    const Tensor& like = *a.tensors[position];
    out->push_back(Device::output(like, like.sizes().data(), like.dim(), dtype_of(like)));
    *data = out->back().mutable_data_ptr();
  }
};

namespace detail {

consteval size_t tensor_count(std::string_view schema) {
  size_t count = schema.empty() ? 0 : 1;
  for (const char c : schema) count += c == ',';
  return count;
}

consteval bool is_optional(std::string_view schema, size_t position) {
  for (size_t skipped = 0; skipped < position; ++skipped) schema.remove_prefix(schema.find(',') + 1);
  return schema.substr(0, schema.find(',')).find('?') != std::string_view::npos;
}

template <LossId id, size_t position>
using Argument = std::conditional_t<is_optional(loss_of(id).arguments, position), OptionalTensor, Tensor>;

template <size_t>
using Incoming = Tensor;

inline Tensor contiguous(Tensor t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

}  // namespace detail

// The boxed entry points of one loss; Family: the Call of its family on a device.
template <class Family, LossId id,
          class Tensors = std::make_index_sequence<detail::tensor_count(loss_of(id).arguments)>,
          class In = std::make_index_sequence<detail::tensor_count(loss_of(id).incoming)>>
struct Entry;

template <class Family, LossId id, size_t... tensor, size_t... in>
struct Entry<Family, id, std::index_sequence<tensor...>, std::index_sequence<in...>> {
  static std::vector<Tensor> forward(detail::Argument<id, tensor>... tensors, OptionList options, int64_t reduction,
                                     int64_t gradients) {
    Family call(arguments({std::move(tensors)...}, {}, options, reduction, gradients));
    std::vector<Tensor> out = call.make_results();
    if (reduction != static_cast<int64_t>(Reduction::kNone)) call.make_gradients(&out);
    call.run();
    return out;
  }

  static std::vector<Tensor> backward(detail::Incoming<in>... incoming, detail::Argument<id, tensor>... tensors,
                                      OptionList options, int64_t reduction, int64_t gradients) {
    Family call(arguments({std::move(tensors)...}, {std::move(incoming)...}, options, reduction, gradients));
    std::vector<Tensor> out;
    call.read_incoming_gradients();
    call.make_gradients(&out);
    if (!out.empty()) call.run();
    return out;
  }

  static Tensor into(Tensor gradient, detail::Argument<id, tensor>... tensors, OptionList options, double factor) {
    Arguments given = arguments({std::move(tensors)...}, {}, options, static_cast<int64_t>(Reduction::kSum), 0);
    given.factor = factor;
    check_same_shape(given.op(), "gradient", gradient, given.first());
    check_same_dtype(given.op(), "gradient", gradient, given.first());
    check_device(given.op(), "gradient", gradient, given.first());
    if (!gradient.is_contiguous()) refuse(given.op(), "a contiguous gradient to write into, got a strided one");
    for (const OptionalTensor& t : given.tensors) {
      const bool in_place = t && t->const_data_ptr() == gradient.const_data_ptr() && &t == &given.tensors[0];
      if (t && overlap(*t, gradient) && !(Family::kInPlace && in_place)) {
        refuse(given.op(), "a gradient in memory of its own, got that of a tensor it is computed from");
      }
    }
    Family call(std::move(given));
    std::vector<Tensor> out = call.make_results();  // the total, then what only a backward needs
    call.write_gradient_to(gradient.mutable_data_ptr());
    call.run();
    return out[0];
  }

 private:
  static Arguments arguments(std::array<OptionalTensor, kMostTensors> tensors, std::vector<Tensor> incoming,
                             const OptionList& options, int64_t reduction, int64_t gradients) {
    const Loss& loss = loss_of(id);
    if (reduction < 0 || reduction > static_cast<int64_t>(Reduction::kBatchMean)) {
      refuse(loss.name, "reduction in [0, 3], got ", reduction);
    }
    Arguments a{id,
                std::move(tensors),
                std::move(incoming),
                loss.options.read(loss.name, options),
                static_cast<Reduction>(reduction),
                gradients};
    for (OptionalTensor& t : a.tensors) {
      if (!t) continue;
      if (&t != &a.tensors[0]) check_device(loss.name, "every tensor", *t, a.first());
      if (!t->is_contiguous()) t = detail::contiguous(*t);
    }
    for (Tensor& t : a.incoming) {
      check_device(loss.name, "every gradient", t, a.first());
      t = detail::contiguous(t);
    }
    check_floating(loss.name, "the first tensor", a.first());
    return a;
  }
};

// Registers the ops of one loss, and the overload of the first, with the library `m` of a device.
template <class Family, LossId id, class Library>
void register_loss(Library& m) {
  const std::string name = loss_of(id).name;
  m.impl(name.c_str(), TORCH_BOX((&Entry<Family, id>::forward)));
  m.impl((name + ".exported").c_str(), TORCH_BOX((&Entry<Family, id>::forward)));
  m.impl((name + "_backward").c_str(), TORCH_BOX((&Entry<Family, id>::backward)));
  m.impl((name + "_into").c_str(), TORCH_BOX((&Entry<Family, id>::into)));
}

}  // namespace fused_losses
