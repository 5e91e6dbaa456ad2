// Gradients of a convolution in bfloat16, for processors with AVX512-BF16 and without a matrix unit: there oneDNN's reach
// half of the speed of its forward pass, or less where the stride is above 1. Called from ppo/convolution.py by ctypes.
//
// Letters: N samples, C channels in, O channels out, K kernel, S stride, P padding. Images and weights lie channels last:
// x (N, H, W, C), dy (N, OH, OW, O), w (O, K, K, C), with H = W and square kernels.
//
// One instruction, vdpbf16ps, adds to each of 16 floats the product of two pairs of bfloat16 numbers. Both functions
// keep 16 or more such vectors of sums in registers, so that each value that is loaded is used many times.

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

struct Shape {
    int64_t samples, side, channels, outputs, kernel, stride, padding;
};

// The threads that torch computes with: GOMP_parallel of its OpenMP library calls function(data) on each of them.
struct Team {
    void (*parallel)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
    int64_t threads;
};

#if defined(__x86_64__) && (!defined(__GNUC__) || defined(__clang__) || __GNUC__ >= 10)
#include <immintrin.h>

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // gcc 12 warns of its own header
#endif

// Every function down to the #else is compiled for this processor alone; ppo/convolution.py asks first.
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#define WIDE_INLINE __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"), always_inline)) inline

namespace {

using Half = uint16_t;  // a bfloat16 number
using Pair = uint32_t;  // two of them: what one lane of vdpbf16ps multiplies

constexpr int64_t kLanes = 16;
constexpr int64_t kMaximumBlock = 12;   // positions whose sums input_gradient holds in registers at a time
constexpr int64_t kSlack = 4 * kLanes;  // pairs behind an array that a last vector may read; what it gives is masked away

struct Sizes : Shape {
    explicit Sizes(const Shape& shape) : Shape(shape), out_side((side + 2 * padding - kernel) / stride + 1) {}
    int64_t out_side;
    int64_t weights_per_output() const { return kernel * kernel * channels; }
};

using Pairs = std::unique_ptr<Pair[]>;

Pairs new_pairs(int64_t count) { return Pairs(new Pair[count + kSlack]); }  // its values are not set

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

// Gradient of the weights: dw[o][ky][kx][c] = sum over samples and positions of dy[o] * x[c] below it. Two samples make a
// pair. For one row ky of the kernel, the K * C inputs under a position are neighbours in memory: they fill the lanes.

// Adds, for `Vectors` vectors of inputs and `Outputs` outputs, the sum over all positions to dw.
template <int Vectors, int Outputs>
WIDE void add_products(const Sizes& s, const Pair* x, const Pair* dy, int64_t row, float* dw, int64_t valid) {
    __m512 sums[Outputs][Vectors];
    for (auto& of_output : sums)
        for (auto& sum : of_output) sum = _mm512_setzero_ps();
    for (int64_t oy = 0; oy < s.out_side; ++oy) {
        const Pair* in = x + oy * s.stride * row;
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
            float* to = dw + o * s.weights_per_output() + kLanes * v;
            _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(sums[o][v], _mm512_maskz_loadu_ps(mask, to)));
        }
}

template <int Vectors, int Outputs>
WIDE void add_row(const Sizes& s, const Pair* x, const Pair* dy, int64_t row, float* dw, int64_t valid) {
    for (int64_t o = 0; o < s.outputs; o += Outputs)
        add_products<Vectors, Outputs>(s, x, dy + o, row, dw + o * s.weights_per_output(), valid);
}

// Adds what the samples [first, last) give to dw (O, K, K, C) and to db (O,).
WIDE void add_weight_gradient(const Sizes& s, const Half* x, const Half* dy, float* dw, float* db, int64_t first, int64_t last) {
    const int64_t padded = s.side + 2 * s.padding, row = padded * s.channels, line = s.side * s.channels;
    const int64_t image = s.side * line, positions = s.out_side * s.out_side, outputs = positions * s.outputs;
    const Pairs in = new_pairs(padded * row), out = new_pairs(outputs);
    std::memset(in.get(), 0, sizeof(Pair) * size_t(padded * row + kSlack));
    const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3F803F80);
    for (int64_t n = first; n < last; n += 2) {
        const Half *one = x + n * image, *other = n + 1 < last ? one + image : nullptr;
        for (int64_t y = 0; y < s.side; ++y)
            interleave(one + y * line, other ? other + y * line : nullptr,
                       in.get() + (y + s.padding) * row + s.padding * s.channels, line);
        interleave(dy + n * outputs, other ? dy + (n + 1) * outputs : nullptr, out.get(), outputs);
        for (int64_t o = 0; o < s.outputs; o += kLanes) {
            __m512 sum = _mm512_loadu_ps(db + o);
            for (int64_t i = 0; i < positions; ++i) sum = _mm512_dpbf16_ps(sum, load(out.get() + i * s.outputs + o), ones);
            _mm512_storeu_ps(db + o, sum);
        }
        const int64_t width = s.kernel * s.channels;
        for (int64_t ky = 0; ky < s.kernel; ++ky)
            for (int64_t i = 0, vectors; i < width; i += vectors * kLanes) {
                const Pair* from = in.get() + ky * row + i;
                float* to = dw + ky * width + i;
                const int64_t left = (width - i + kLanes - 1) / kLanes;
                vectors = left == 1 ? 1 : left % 3 == 0 ? 3 : 2;
                const auto add = vectors == 1 ? add_row<1, 16> : vectors == 2 ? add_row<2, 8> : add_row<3, 8>;
                add(s, from, out.get(), row, to, width - i);
            }
    }
}

// Gradient of the input: dx[y][x][c] = sum over the outputs and the taps (ky, kx) that saw it of dy[o] * w[o][ky][kx][c].
// Two outputs make a pair. Inputs whose places differ by a multiple of the stride were seen by the same taps; without
// padding and with K and H multiples of S, so were S neighbours of a row, whose channels are neighbours in memory too.

struct Taps {
    std::vector<int64_t> in_dy, in_w;  // where each tap's pairs begin, relative to the position's and to w
};

// Writes, for `Vectors` vectors of channels, the gradients of `Block` inputs, which lie `step` numbers from each other.
template <int Vectors, int Block>
WIDE void write_block(const Sizes& s, const Taps& taps, const Pair* dy, const Pair* w, Half* dx, int64_t step) {
    const int64_t pairs = s.outputs / 2;
    __m512 sums[Block][Vectors];
    for (auto& of_input : sums)
        for (auto& sum : of_input) sum = _mm512_setzero_ps();
    for (size_t tap = 0; tap < taps.in_w.size(); ++tap) {
        const Pair *gradients = dy + taps.in_dy[tap], *weights = w + taps.in_w[tap];
        for (int64_t o = 0; o < pairs; ++o, weights += s.weights_per_output()) {
            __m512bh of_channels[Vectors];
            for (int v = 0; v < Vectors; ++v) of_channels[v] = load(weights + kLanes * v);
            for (int b = 0; b < Block; ++b) {
                const __m512bh gradient = (__m512bh)_mm512_set1_epi32(int(gradients[b * pairs + o]));
                for (int v = 0; v < Vectors; ++v) sums[b][v] = _mm512_dpbf16_ps(sums[b][v], of_channels[v], gradient);
            }
        }
    }
    for (int b = 0; b < Block; ++b)
        for (int v = 0; v < Vectors; ++v)
            _mm256_storeu_si256((__m256i*)(dx + b * step + kLanes * v), (__m256i)_mm512_cvtneps_pbh(sums[b][v]));
}

using WriteBlock = void (*)(const Sizes&, const Taps&, const Pair*, const Pair*, Half*, int64_t);

template <int Vectors>
WriteBlock writer(int64_t block) {
    static const WriteBlock of_size[kMaximumBlock] = {
        write_block<Vectors, 1>, write_block<Vectors, 2>,  write_block<Vectors, 3>,  write_block<Vectors, 4>,
        write_block<Vectors, 5>, write_block<Vectors, 6>,  write_block<Vectors, 7>,  write_block<Vectors, 8>,
        write_block<Vectors, 9>, write_block<Vectors, 10>, write_block<Vectors, 11>, write_block<Vectors, 12>,
    };
    return of_size[block - 1];
}

// Writes dx (N, H, W, C) of the samples [first, last); `w` holds pairs of outputs, (O / 2, K, K, C).
WIDE void write_input_gradient(const Sizes& s, const Half* dy, const Pair* w, Half* dx, int64_t first, int64_t last) {
    const int64_t pairs = s.outputs / 2, margin = (s.kernel + s.stride - 1) / s.stride;
    const int64_t padded = s.out_side + 2 * margin + 2, line = s.out_side * pairs;
    const bool whole = s.padding == 0 && s.kernel % s.stride == 0 && s.side % s.stride == 0;
    const int64_t together = whole ? s.stride : 1;  // neighbours of a row
    const Pairs out = new_pairs(padded * padded * pairs);  // dy with zeros around it
    std::memset(out.get(), 0, sizeof(Pair) * size_t(padded * padded * pairs + kSlack));
    for (int64_t n = first; n < last; ++n) {
        for (int64_t oy = 0; oy < s.out_side; ++oy)
            std::memcpy(out.get() + ((oy + margin) * padded + margin) * pairs,
                        dy + (n * s.out_side + oy) * s.out_side * s.outputs, sizeof(Pair) * size_t(line));
        for (int64_t y0 = 0; y0 < s.stride; ++y0)
            for (int64_t x0 = 0; x0 < s.stride; x0 += together) {
                Taps taps;
                for (int64_t ky = 0; ky < s.kernel; ++ky)
                    for (int64_t kx = 0; kx < s.kernel; ++kx) {
                        const int64_t up = y0 + s.padding - ky, left = x0 + s.padding - kx;
                        if (up % s.stride || left % s.stride) continue;
                        taps.in_dy.push_back((up / s.stride * padded + left / s.stride) * pairs);
                        taps.in_w.push_back((ky * s.kernel + kx) * s.channels);
                    }
                const int64_t count = (s.side - x0 + s.stride - 1) / s.stride, width = together * s.channels;
                const int64_t blocks = (count + kMaximumBlock - 1) / kMaximumBlock;
                for (int64_t y = y0; y < s.side; y += s.stride)
                    for (int64_t b = 0; b < blocks; ++b) {
                        const int64_t begin = count * b / blocks, block = count * (b + 1) / blocks - begin;
                        const Pair* from = out.get() + ((y / s.stride + margin) * padded + begin + margin) * pairs;
                        Half* to = dx + ((n * s.side + y) * s.side + s.stride * begin + x0) * s.channels;
                        for (int64_t i = 0, vectors; i < width; i += vectors * kLanes) {
                            vectors = width - i >= 2 * kLanes ? 2 : 1;
                            const auto write = vectors == 2 ? writer<2>(block) : writer<1>(block);
                            write(s, taps, from, w + i, to + i, s.stride * s.channels);
                        }
                    }
            }
    }
}

// A job of `parts` parts, which the threads of a team take in turn.
template <class Work>
struct Job {
    const Work& work;
    int64_t samples, parts;
    std::atomic<int64_t> next{0};

    int64_t bound(int64_t part) const { return part == parts ? samples : 2 * ((samples + 1) / 2 * part / parts); }
    static void run(void* pointer) {
        Job& job = *static_cast<Job*>(pointer);
        for (int64_t part; (part = job.next++) < job.parts;) job.work(part, job.bound(part), job.bound(part + 1));
    }
};

// Calls work(part, first sample, last sample) for as many parts as threads, each but the last of whole pairs of samples.
template <class Work>
void share(const Team& team, int64_t samples, const Work& work) {
    Job<Work> job{work, samples, team.threads};
    if (team.threads == 1) return Job<Work>::run(&job);
    team.parallel(Job<Work>::run, &job, unsigned(team.threads), 0);
}

}  // namespace

// Writes the gradients of the weights, dw (O, K, K, C) float, and of the biases, db (O,) float. Nothing is thrown but for
// want of memory, which ends the process: no exception may leave a thread of OpenMP.
EXPORT void convolution_weight_gradient(const Shape* shape, const void* x, const void* dy, float* dw, float* db,
                                        const Team* team) noexcept {
    const Sizes s(*shape);
    const size_t weights = size_t(s.outputs * s.weights_per_output()), size = weights + size_t(s.outputs);
    std::vector<float> sums(size * size_t(team->threads));  // of each part: dw and db behind each other
    share(*team, s.samples, [&](int64_t part, int64_t first, int64_t last) {
        float* own = sums.data() + size * size_t(part);
        add_weight_gradient(s, (const Half*)x, (const Half*)dy, own, own + weights, first, last);
    });
    for (int64_t part = 1; part < team->threads; ++part)
        for (size_t i = 0; i < size; ++i) sums[i] += sums[size * size_t(part) + i];
    std::memcpy(dw, sums.data(), sizeof(float) * weights);
    std::memcpy(db, sums.data() + weights, sizeof(float) * (size - weights));
}

// Writes the gradient of the input, dx (N, H, W, C) bfloat16, from w (O, K, K, C) bfloat16.
EXPORT void convolution_input_gradient(const Shape* shape, const void* dy, const void* w, void* dx, const Team* team) noexcept {
    const Sizes s(*shape);
    const int64_t size = s.weights_per_output();
    const Pairs paired = new_pairs(s.outputs / 2 * size);
    for (int64_t o = 0; o < s.outputs / 2; ++o)
        interleave((const Half*)w + 2 * o * size, (const Half*)w + (2 * o + 1) * size, paired.get() + o * size, size);
    share(*team, s.samples, [&](int64_t, int64_t first, int64_t last) {
        write_input_gradient(s, (const Half*)dy, paired.get(), (Half*)dx, first, last);
    });
}

#else  // another processor: ppo/convolution.py does not call them

EXPORT void convolution_weight_gradient(const Shape*, const void*, const void*, float*, float*, const Team*) {}
EXPORT void convolution_input_gradient(const Shape*, const void*, const void*, void*, const Team*) {}

#endif
