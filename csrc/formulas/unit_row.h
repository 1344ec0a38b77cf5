// A row over its norm, x / max(|x|, 1e-12), and its gradient (g - u (g . u)) / |x|; where the norm is below that bound
// it is a constant. Included inside each instruction set's namespace and that of the kernels, after numerics.h.

template <class A>
struct UnitRow {
  A divisor;
  bool constant;  // the norm is

  FL_HD explicit UnitRow(A norm) : constant(norm < A(1e-12)) { divisor = constant ? A(1e-12) : norm; }

  FL_HD A value(A x) const { return x / divisor; }
  // along: the sum of g u over the row.
  FL_HD A gradient(A g, A u, A along) const { return (g - u * (constant ? A(0) : along)) / divisor; }
};
