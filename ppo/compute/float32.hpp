// Drop-in for torch's Conv2d, in stacks: what is the same for all processors in float32, where a lane multiplies one
// number. convolutions.cpp includes this file once for each, after its vectors, and before convolutions.hpp.

using Number = float;
using Lane = float;
constexpr int64_t kPer = 1;
constexpr Lane kOnes = 1.0f;

inline float to_float(Number number) { return number; }

INLINE void keep_positive(const Number* numbers, const Number* y, Number* to) {
    store_sums(to, where_positive(load(numbers), load(y)));
}

INLINE void write(Sums sums, bool relu, const Number* mask, Number* to) {
    if (relu) sums = max_with_zero(sums);
    store_sums(to, mask ? where_positive(sums, load(mask)) : sums);
}

inline void interleave(const Number* low, const Number*, Lane* out, int64_t count) {
    std::memcpy(out, low, sizeof(Lane) * size_t(count));
}
