// Functions of C++ as functions of a Python module, in CPython's limited API alone (PY_LIMITED_API, 3.10): one binary
// serves that version and every later one. Arguments by position, none or one; std::invalid_argument is a ValueError.
#pragma once

#include <Python.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace fused_losses::python {

// What a function may return: these, and lists and dicts of them.
using Value = std::variant<int64_t, std::string, std::vector<std::string>>;
using Facts = std::vector<std::pair<std::string, Value>>;

// Each returns a new reference, or null with Python's error set.
inline PyObject* object(int64_t value) { return PyLong_FromLongLong(value); }
inline PyObject* object(const std::string& text) {
  return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
}
PyObject* object(const Facts& facts);

template <class T>
PyObject* object(const std::vector<T>& items) {
  PyObject* list = PyList_New(0);
  for (size_t i = 0; list != nullptr && i < items.size(); ++i) {
    PyObject* item = object(items[i]);
    if (item == nullptr || PyList_Append(list, item) != 0) Py_CLEAR(list);
    Py_XDECREF(item);
  }
  return list;
}

inline PyObject* object(const Facts& facts) {
  PyObject* dict = PyDict_New();
  for (size_t i = 0; dict != nullptr && i < facts.size(); ++i) {
    PyObject* value = std::visit([](const auto& held) { return object(held); }, facts[i].second);
    if (value == nullptr || PyDict_SetItemString(dict, facts[i].first.c_str(), value) != 0) Py_CLEAR(dict);
    Py_XDECREF(value);
  }
  return dict;
}

// What an argument of that type is given; false with Python's error set.
inline bool read(PyObject* given, int64_t& value) {
  value = PyLong_AsLongLong(given);
  return value != -1 || PyErr_Occurred() == nullptr;
}
inline bool read(PyObject* given, std::string& text) {
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(given, &size);
  if (data != nullptr) text.assign(data, static_cast<size_t>(size));
  return data != nullptr;
}

// `work` with its exceptions as Python's.
template <class Work>
PyObject* guarded(Work work) {
  try {
    return work();
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

template <auto function>
struct Method;

template <class Result, Result (*function)()>
struct Method<function> {
  static constexpr int kFlags = METH_NOARGS;
  static PyObject* call(PyObject*, PyObject*) {
    return guarded([] { return object(function()); });
  }
};

template <class Result, class Argument, Result (*function)(Argument)>
struct Method<function> {
  static constexpr int kFlags = METH_O;
  static PyObject* call(PyObject*, PyObject* given) {
    std::decay_t<Argument> argument{};
    if (!read(given, argument)) return nullptr;
    return guarded([&] { return object(function(argument)); });
  }
};

template <auto function>
PyMethodDef method(const char* name, const char* doc) {
  return {name, &Method<function>::call, Method<function>::kFlags, doc};
}

// The module of these methods, which end with a null one and live as long as the process.
inline PyObject* module(PyModuleDef& definition, const char* name, const char* doc, PyMethodDef* methods) {
  definition = {PyModuleDef_HEAD_INIT, name, doc, -1, methods, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}

}  // namespace fused_losses::python
