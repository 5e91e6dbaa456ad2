// Drop-in for torch's Conv2d, in stacks: in bfloat16, forward and backward, for processors with AVX512-BF16 and without
// a matrix unit. Called from ppo/compute/convolutions.py by ctypes.
//
// A sample goes through all layers before the next one does: activations between two layers, forward, and the gradients
// of them, backward, stay in the core's own cache. Layer by layer, as torch computes, each passes through main memory,
// which all cores share.
//
// Letters: N samples, C channels in, O channels out, K kernel, S stride, P padding. Images and weights are channels
// last: x (N, H, W, C), y and dy (N, OH, OW, O), w (O, K, K, C), with H = W and square kernels.
//
// One instruction, vdpbf16ps, adds to each of 16 floats the product of two pairs of bfloat16 numbers. All functions
// keep 16 or more such vectors of sums in registers, so that each value that is loaded is used many times.

#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "team.hpp"

// One convolution, as ppo/compute/convolutions.py has it. `y` is its output, after the ReLU if it has one.
struct Layer {
    int64_t side, channels, outputs, kernel, stride, padding, relu;
    const uint16_t *weight, *bias;  // (O, K, K, C) and (O,), bfloat16
    uint16_t* y;                    // (N, OH, OW, O) bfloat16; written forward, read backward
    float *weight_gradient, *bias_gradient;  // (O, K, K, C) and (O,); written backward
};

#if defined(__x86_64__) && (!defined(__GNUC__) || defined(__clang__) || __GNUC__ >= 10)
#include <immintrin.h>

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // gcc 12 warns of its own header
#pragma GCC diagnostic ignored "-Wignored-attributes"   // of Array<Pair>, which is read through Pair*
#endif

// Every function down to the #else is compiled for this processor alone; ppo/compute/convolutions.py asks first.
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#define WIDE_INLINE __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"), always_inline)) inline

namespace {

using Half = uint16_t;                                      // a bfloat16 number
typedef uint32_t __attribute__((may_alias)) Pair;           // two of them: what one lane of vdpbf16ps multiplies
template <class T> using Array = std::unique_ptr<T[]>;
template <int Count> using UpTo = std::make_integer_sequence<int, Count>;

constexpr int64_t kLanes = 16;
constexpr int kSums = 24;               // vectors of sums in registers at a time, at most
constexpr int kBlock = 12;  // positions whose inputs write_block reads at a time, each by an address of its own
constexpr int64_t kSlack = 4 * kLanes;  // numbers after an array that its last vector may read; the results are masked

struct Sizes : Layer {
    explicit Sizes(const Layer& layer) : Layer(layer), out_side((side + 2 * padding - kernel) / stride + 1) {}
    int64_t out_side;
    int64_t row() const { return kernel * channels; }  // of the kernel: K * C inputs that are neighbours in memory
    int64_t weights() const { return kernel * row(); }  // of an output
    int64_t line() const { return side * channels; }
    int64_t image() const { return side * line(); }
    int64_t padded_side() const { return side + 2 * padding; }
    int64_t places() const { return out_side * out_side; }
    int64_t size() const { return places() * outputs; }  // of a sample's output
};

template <class T>
Array<T> new_array(int64_t count) { return Array<T>(new T[count + kSlack]); }  // its values are not set

template <class T>
Array<T> new_zeros(int64_t count) { return Array<T>(new T[count + kSlack]()); }

WIDE_INLINE __m512bh load(const Pair* from) { return (__m512bh)_mm512_loadu_si512(from); }

// out[i] = the pair (low[i], high[i]); zeros for high if it is null.
WIDE void interleave(const Half* low, const Half* high, Pair* out, int64_t count) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        __m512i pairs = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(low + i)));
        if (high) {
            const __m512i upper = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(high + i)));
            pairs = _mm512_or_si512(pairs, _mm512_slli_epi32(upper, 16));
        }
        _mm512_storeu_si512(out + i, pairs);
    }
    for (; i < count; ++i) out[i] = Pair(low[i]) | (high ? Pair(high[i]) << 16 : 0);
}

// The numbers where `y`, a ReLU's output, is above zero, and zeros elsewhere.
WIDE_INLINE __m256i where_positive(__m256i numbers, const Half* y) {
    const __m256i output =
        _mm256_loadu_si256((const __m256i*)y);  // a bfloat16 number above zero is an int16 above zero
    return _mm256_maskz_mov_epi16(_mm256_cmpgt_epi16_mask(output, _mm256_setzero_si256()), numbers);
}

// Number of vectors to process at a time of `numbers`, a multiple of 16.
inline int64_t vectors_of(int64_t numbers) { return numbers % (4 * kLanes) == 0 ? 4 : numbers > kLanes ? 2 : 1; }

// Products of pairs of inputs and weights, summed: the forward pass and the gradient of the input. What a position's
// inputs are is cut into taps, runs of pairs that are neighbours in memory.

struct Tap {
    int64_t in, weights;  // where it begins, relative to the position's first pair and to w
};

struct Products {
    const Tap* taps;
    int64_t count, pairs;               // number of taps, and of the pairs of each
    int64_t in_step, w_step, out_step;  // between positions, between the weights of a tap, between results
};

// Writes the results of `Block` positions, 16 * `Vectors` numbers each. Sums begin at `bias`, or at zero if it is null.
template <int Vectors, int Block>
WIDE void write_block(const Products& p, const Pair* in, const Pair* w, const float* bias, bool relu, const Half* mask,
                      Half* out) {
    __m512 sums[Block][Vectors];
    for (int v = 0; v < Vectors; ++v) {
        const __m512 start = bias ? _mm512_loadu_ps(bias + kLanes * v) : _mm512_setzero_ps();
        for (int b = 0; b < Block; ++b) sums[b][v] = start;
    }
    for (const Tap* tap = p.taps; tap < p.taps + p.count; ++tap) {
        const Pair *inputs = in + tap->in, *weights = w + tap->weights;
        for (int64_t i = 0; i < p.pairs; ++i, weights += p.w_step) {
            __m512bh row[Vectors];
            for (int v = 0; v < Vectors; ++v) row[v] = load(weights + kLanes * v);
            for (int b = 0; b < Block; ++b) {
                const __m512bh input = (__m512bh)_mm512_set1_epi32(int(inputs[b * p.in_step + i]));
                for (int v = 0; v < Vectors; ++v) sums[b][v] = _mm512_dpbf16_ps(sums[b][v], row[v], input);
            }
        }
    }
    for (int b = 0; b < Block; ++b)
        for (int v = 0; v < Vectors; ++v) {
            const int64_t at = b * p.out_step + kLanes * v;
            __m256i numbers = (__m256i)_mm512_cvtneps_pbh(sums[b][v]);
            if (relu)
                numbers = _mm256_max_epi16(numbers, _mm256_setzero_si256());  // a negative one is a negative int16
            if (mask) numbers = where_positive(numbers, mask + at);
            _mm256_storeu_si256((__m256i*)(out + at), numbers);
        }
}

using WriteBlock = void (*)(const Products&, const Pair*, const Pair*, const float*, bool, const Half*, Half*);

template <int Vectors, int... Less>
WriteBlock writer(int64_t block, std::integer_sequence<int, Less...>) {
    static const WriteBlock of_size[] = {write_block<Vectors, Less + 1>...};
    return of_size[block - 1];
}

// Writes `count` results of `width` numbers, a multiple of 16, for positions that are neighbours.
WIDE void write_line(const Products& p, const Pair* in, const Pair* w, const float* bias, bool relu, const Half* mask,
                     Half* out, int64_t count, int64_t width) {
    for (int64_t i = 0, vectors; i < width; i += vectors * kLanes) {
        vectors = vectors_of(width - i);
        const int64_t largest = vectors == 4 ? kSums / 4 : kBlock, blocks = (count + largest - 1) / largest;
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t begin = count * b / blocks, block = count * (b + 1) / blocks - begin;
            const auto write = vectors == 4   ? writer<4>(block, UpTo<kSums / 4>())
                               : vectors == 2 ? writer<2>(block, UpTo<kBlock>())
                                              : writer<1>(block, UpTo<kBlock>());
            const int64_t at = begin * p.out_step + i;
            write(p, in + begin * p.in_step, w + i, bias ? bias + i : nullptr, relu, mask ? mask + at : nullptr,
                  out + at);
        }
    }
}

// Forward: y[o] = bias[o] + sum over the taps and channels of x[c] * w[o][ky][kx][c]. Two channels make a pair, a row
// of the kernel is a tap, the outputs fill the lanes.
struct Forward : Sizes {
    std::vector<Tap> taps;
    Array<Pair> w;  // (K, K * C / 2, O)
    Array<float> starts;

    explicit Forward(const Layer& layer) : Sizes(layer) {
        const int64_t pairs = weights() / 2;
        w = new_array<Pair>(pairs * outputs);
        starts = new_array<float>(outputs);
        const Pair* given = (const Pair*)weight;
        for (int64_t o = 0; o < outputs; ++o) {
            const Pair bits = Pair(bias[o]) << 16;
            std::memcpy(&starts[size_t(o)], &bits, sizeof bits);
            for (int64_t i = 0; i < pairs; ++i) w[size_t(i * outputs + o)] = given[o * pairs + i];
        }
        for (int64_t ky = 0; ky < kernel; ++ky)
            taps.push_back({ky * padded_side() * channels / 2, ky * row() / 2 * outputs});
    }

    // `padded` is room for an image with its padding, whose edge is zero.
    void of_sample(const Half* x, Half* to, Half* padded) const {
        const int64_t wide = padded_side() * channels;
        if (padding) {
            for (int64_t i = 0; i < side; ++i)
                std::memcpy(padded + (i + padding) * wide + padding * channels, x + i * line(),
                            sizeof(Half) * size_t(line()));
            x = padded;
        }
        const Products products{taps.data(), kernel, row() / 2, stride * channels / 2, outputs, outputs};
        for (int64_t oy = 0; oy < out_side; ++oy)
            write_line(products, (const Pair*)(x + oy * stride * wide), w.get(), starts.get(), relu, nullptr,
                       to + oy * out_side * outputs, out_side, outputs);
    }
};

// Gradient of the input: dx[y][x][c] = sum over the outputs and the taps (ky, kx) that saw it of dy[o] *
// w[o][ky][kx][c]. Two outputs make a pair. Inputs whose places differ by a multiple of the stride were seen by the
// same taps; without padding and with K and H multiples of S, so were S neighbours of a row, whose channels are
// neighbours in memory too.
struct InputGradient : Sizes {
    struct Phase {
        int64_t y, x, columns;
        std::vector<Tap> taps;
        std::vector<int64_t> rows;  // the row of dy of each tap, relative to that of the position
    };
    std::vector<Phase> phases;
    Array<Pair> w;  // (O / 2, K, K, C)
    int64_t pairs, margin, padded;

    explicit InputGradient(const Layer& layer)
        : Sizes(layer), pairs(outputs / 2), margin((kernel + stride - 1) / stride) {
        padded = out_side + 2 * margin + 2;
        w = new_array<Pair>(pairs * weights());
        for (int64_t o = 0; o < pairs; ++o)
            interleave(weight + 2 * o * weights(), weight + (2 * o + 1) * weights(), w.get() + o * weights(),
                       weights());
        const bool whole = padding == 0 && kernel % stride == 0 && side % stride == 0;
        const int64_t columns = whole ? stride : 1;
        for (int64_t y = 0; y < stride && y < side; ++y)
            for (int64_t x = 0; x < stride && x < side; x += columns) {
                Phase phase{y, x, columns, {}, {}};
                for (int64_t ky = 0; ky < kernel; ++ky)
                    for (int64_t kx = 0; kx < kernel; ++kx) {
                        const int64_t up = y + padding - ky, left = x + padding - kx;
                        if (up % stride || left % stride) continue;
                        phase.taps.push_back({(up / stride * padded + left / stride) * pairs,
                                              (ky * kernel + kx) * channels});
                        phase.rows.push_back(up / stride);
                    }
                phases.push_back(phase);
            }
    }

    int64_t room() const { return padded * padded * pairs; }

    // `out` is room for dy with zeros around it; zeros are written where `mask` (H, W, C), a ReLU's output, is zero.
    void of_sample(const Half* dy, const Half* mask, Half* dx, Pair* out) const {
        for (int64_t oy = 0; oy < out_side; ++oy)
            std::memcpy(out + ((oy + margin) * padded + margin) * pairs, dy + oy * out_side * outputs,
                        sizeof(Pair) * size_t(out_side * pairs));
        for (const Phase& phase : phases)
            for (int64_t y = phase.y; y < side; y += stride) {
                const int64_t at = y * line() + phase.x * channels, count = (side - phase.x + stride - 1) / stride;
                size_t first = 0, last = phase.rows.size();  // the taps whose row of dy there is; rows go down
                while (first < last && y / stride + phase.rows[first] >= out_side) ++first;
                while (first < last && y / stride + phase.rows[last - 1] < 0) --last;
                const Products products{phase.taps.data() + first, int64_t(last - first), pairs, pairs, weights(),
                                        stride * channels};
                write_line(products, out + ((y / stride + margin) * padded + margin) * pairs, w.get(), nullptr, false,
                           mask ? mask + at : nullptr, dx + at, count, phase.columns * channels);
            }
    }
};

// Gradient of the weights: dw[o][ky][kx][c] = sum over samples and positions of dy[o] * x[c] below it. Two samples make
// a pair. For one row ky of the kernel, the K * C inputs under a position are neighbours in memory: they fill the
// lanes.

// Adds, for `Vectors` vectors of inputs and `Outputs` outputs, the sum over all positions to dw.
template <int Vectors, int Outputs>
WIDE void add_products(const Sizes& s, const Pair* x, const Pair* dy, int64_t line, float* dw, int64_t valid) {
    __m512 sums[Outputs][Vectors];
    for (auto& of_output : sums)
        for (auto& sum : of_output) sum = _mm512_setzero_ps();
    for (int64_t oy = 0; oy < s.out_side; ++oy) {
        const Pair* in = x + oy * s.stride * line;
        for (int64_t ox = 0; ox < s.out_side; ++ox, in += s.stride * s.channels, dy += s.outputs) {
            __m512bh inputs[Vectors];
            for (int v = 0; v < Vectors; ++v) inputs[v] = load(in + kLanes * v);
            for (int o = 0; o < Outputs; ++o) {
                const __m512bh gradient = (__m512bh)_mm512_set1_epi32(int(dy[o]));
                for (int v = 0; v < Vectors; ++v) sums[o][v] = _mm512_dpbf16_ps(sums[o][v], inputs[v], gradient);
            }
        }
    }
    for (int o = 0; o < Outputs; ++o)
        for (int v = 0; v < Vectors; ++v) {
            const int64_t left = valid - kLanes * v;
            const __mmask16 mask = left >= kLanes ? 0xFFFF : __mmask16((1u << left) - 1);
            float* to = dw + o * s.weights() + kLanes * v;
            _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(sums[o][v], _mm512_maskz_loadu_ps(mask, to)));
        }
}

template <int Vectors, int Outputs>
WIDE void add_row(const Sizes& s, const Pair* x, const Pair* dy, int64_t line, float* dw, int64_t valid) {
    for (int64_t o = 0; o < s.outputs; o += Outputs)
        add_products<Vectors, Outputs>(s, x, dy + o, line, dw + o * s.weights(), valid);
}

// Adds the gradients of two samples, or of one if `x[1]` is null, to dw (O, K, K, C) and to db (O,). `in` is room for
// the pairs of two images with their padding, whose edge is zero, `out` for those of dy.
WIDE void add_weight_gradient(const Sizes& s, const Half* const x[2], const Half* const dy[2], float* dw, float* db,
                              Pair* in, Pair* out) {
    const int64_t line = s.padded_side() * s.channels;
    for (int64_t y = 0; y < s.side; ++y)
        interleave(x[0] + y * s.line(), x[1] ? x[1] + y * s.line() : nullptr,
                   in + (y + s.padding) * line + s.padding * s.channels, s.line());
    interleave(dy[0], x[1] ? dy[1] : nullptr, out, s.size());
    const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3F803F80);
    for (int64_t o = 0; o < s.outputs; o += kLanes) {
        __m512 sums[4] = {_mm512_loadu_ps(db + o), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t i = 0; i < s.places(); ++i)  // four sums, as each addition waits for the one before it
            sums[i % 4] = _mm512_dpbf16_ps(sums[i % 4], load(out + i * s.outputs + o), ones);
        _mm512_storeu_ps(db + o, _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
    }
    for (int64_t ky = 0; ky < s.kernel; ++ky)
        for (int64_t i = 0, vectors; i < s.row(); i += vectors * kLanes) {
            const int64_t left = (s.row() - i + kLanes - 1) / kLanes;
            vectors = left == 1 ? 1 : left % 3 == 0 ? 3 : 2;
            const auto add = vectors == 1 ? add_row<1, 16> : vectors == 2 ? add_row<2, 8> : add_row<3, 8>;
            add(s, in + ky * line + i, out, line, dw + ky * s.row() + i, s.row() - i);
        }
}

// What one thread needs to take two samples at a time backward through all layers.
struct Backward {
    struct Room {
        Array<Pair> in, out, around;  // for add_weight_gradient and InputGradient
        Array<Half> dy[2];            // gradients of this layer's output, before its ReLU
    };
    const std::vector<Sizes>& layers;
    const std::vector<InputGradient>& gradients;  // of each layer's input, the first one's only if it is wanted
    std::vector<Room> rooms;

    Backward(const std::vector<Sizes>& layers, const std::vector<InputGradient>& gradients)
        : layers(layers), gradients(gradients) {
        for (const Sizes& s : layers) {
            Room room;
            room.in = new_zeros<Pair>(s.padded_side() * s.padded_side() * s.channels);
            room.out = new_array<Pair>(s.size());
            for (auto& dy : room.dy) dy = new_array<Half>(s.size());
            rooms.push_back(std::move(room));
        }
        for (size_t i = 0; i < gradients.size(); ++i)
            rooms[rooms.size() - 1 - i].around = new_zeros<Pair>(gradients[gradients.size() - 1 - i].room());
    }

    // Samples `n` and `n + 1`, or `n` alone; `sums` has dw and db of each layer, one after the other.
    WIDE void of_samples(int64_t n, int64_t count, const Half* x, const Half* dy, Half* dx, float* sums) {
        const size_t skipped = layers.size() - gradients.size();
        const Sizes& top = layers.back();
        for (int64_t k = 0; k < count && top.relu; ++k)
            for (int64_t i = 0, at = (n + k) * top.size(); i < top.size(); i += kLanes) {
                const __m256i numbers = _mm256_loadu_si256((const __m256i*)(dy + at + i));
                _mm256_storeu_si256((__m256i*)(rooms.back().dy[k].get() + i), where_positive(numbers, top.y + at + i));
            }
        for (size_t l = layers.size(); l-- > 0;) {
            const Sizes& s = layers[l];
            Room& room = rooms[l];
            const Half* below = l ? layers[l - 1].y : x;
            const Half* inputs[2] = {below + n * s.image(), count > 1 ? below + (n + 1) * s.image() : nullptr};
            const bool given = l + 1 == layers.size() && !s.relu;
            const Half* outputs[2] = {given ? dy + n * s.size() : room.dy[0].get(),
                                      given ? dy + (n + 1) * s.size() : room.dy[1].get()};
            float* dw = sums;
            for (size_t before = 0; before < l; ++before) dw += layers[before].outputs * (layers[before].weights() + 1);
            add_weight_gradient(s, inputs, outputs, dw, dw + s.outputs * s.weights(), room.in.get(), room.out.get());
            if (l < skipped) continue;
            const bool masked = l && layers[l - 1].relu;
            for (int64_t k = 0; k < count; ++k)
                gradients[l - skipped].of_sample(outputs[k], masked ? inputs[k] : nullptr,
                                                 l ? rooms[l - 1].dy[k].get() : dx + (n + k) * s.image(),
                                                 room.around.get());
        }
    }
};

}  // namespace

// Only a lack of memory throws, which ends the process: no exception may leave a thread of OpenMP.

// Writes `y` of each layer from x (N, H, W, C) bfloat16.
EXPORT void convolutions_forward(const Layer* layers, int64_t count, int64_t samples, const uint16_t* x,
                                 const Team* team) noexcept {
    const std::vector<Forward> stack(layers, layers + count);
    share(*team, samples, [&](int64_t, int64_t first, int64_t last) {
        std::vector<Array<Half>> padded;
        for (const Forward& s : stack)
            padded.push_back(s.padding ? new_zeros<Half>(s.padded_side() * s.padded_side() * s.channels) : nullptr);
        for (int64_t n = first; n < last; ++n) {
            const Half* in = x + n * stack.front().image();
            for (size_t l = 0; l < stack.size(); ++l) {
                Half* out = stack[l].y + n * stack[l].size();
                stack[l].of_sample(in, out, padded[l].get());
                in = out;
            }
        }
    });
}

// Writes both gradients of each layer, and dx (N, H, W, C) bfloat16 unless it is null, from dy of the last one,
// bfloat16.
EXPORT void convolutions_backward(const Layer* layers, int64_t count, int64_t samples, const uint16_t* x,
                                  const uint16_t* dy, uint16_t* dx, const Team* team) noexcept {
    const std::vector<Sizes> stack(layers, layers + count);
    const std::vector<InputGradient> gradients(layers + (dx ? 0 : 1), layers + count);
    int64_t size = 0;
    for (const Sizes& s : stack) size += s.outputs * (s.weights() + 1);
    std::vector<float> sums(
        size_t(size * team->threads));  // of each part: dw and db of each layer, one after the other
    share(*team, (samples + 1) / 2, [&](int64_t part, int64_t first, int64_t last) {
        Backward backward(stack, gradients);
        for (int64_t n = 2 * first; n < 2 * last; n += 2)
            backward.of_samples(n, n + 1 < samples ? 2 : 1, x, dy, dx, sums.data() + size * part);
    });
    for (int64_t part = 1; part < team->threads; ++part)
        for (int64_t i = 0; i < size; ++i) sums[size_t(i)] += sums[size_t(size * part + i)];
    const float* from = sums.data();
    for (const Sizes& s : stack) {
        const int64_t weights = s.outputs * s.weights();
        std::memcpy(s.weight_gradient, from, sizeof(float) * size_t(weights));
        std::memcpy(s.bias_gradient, from + weights, sizeof(float) * size_t(s.outputs));
        from += weights + s.outputs;
    }
}

#else  // another processor: ppo/compute/convolutions.py does not call them

EXPORT void convolutions_forward(const Layer*, int64_t, int64_t, const uint16_t*, const Team*) noexcept {}
EXPORT void convolutions_backward(const Layer*, int64_t, int64_t, const uint16_t*, const uint16_t*, uint16_t*,
                                  const Team*) noexcept {}

#endif
