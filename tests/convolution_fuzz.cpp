// The gradients of random convolutions, in buffers of exactly their size, under the address sanitizer: `make fuzz`.
// Small integers, so that the sums are exact and can be compared with a plain loop.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>

#include "../ppo/convolution.cpp"

using Numbers = std::vector<uint16_t>;

static uint16_t half(int value) {
    const float number = float(value);
    uint32_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    return uint16_t(bits >> 16);
}

static float number(uint16_t value) {
    const uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

static void one_after_another(void (*function)(void*), void* data, unsigned threads, unsigned) {
    for (unsigned i = 0; i < threads; ++i) function(data);
}

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 100;
    if (!__builtin_cpu_supports("avx512bf16")) return std::puts("no AVX512-BF16 here: nothing was run"), 0;
    std::mt19937 random(0);
    const auto draw = [&](int low, int high) { return int64_t(low + int(random() % unsigned(high - low + 1))); };
    for (int round = 0; round < rounds; ++round) {
        Shape s{draw(1, 5), draw(1, 21), draw(1, 3), 16 * draw(1, 3), draw(1, 5), draw(1, 4), 0};
        if (s.side < s.kernel) s.side = s.kernel;
        s.padding = draw(0, int(s.kernel) - 1);
        const bool whole = s.padding == 0 && s.kernel % s.stride == 0 && s.side % s.stride == 0;
        const bool input = round % 2;
        if (input) s.channels = whole ? 16 / std::gcd(int64_t(16), s.stride) : 16 * s.channels;
        const int64_t out = (s.side + 2 * s.padding - s.kernel) / s.stride + 1;
        Numbers x(size_t(s.samples * s.side * s.side * s.channels)), dy(size_t(s.samples * out * out * s.outputs));
        Numbers w(size_t(s.outputs * s.kernel * s.kernel * s.channels)), dx(x.size());
        for (auto* array : {&x, &dy, &w})
            for (auto& value : *array) value = half(int(draw(-2, 2)));
        std::vector<float> dw(w.size()), db(size_t(s.outputs)), dw_plain(w.size()), db_plain(db.size()), dx_plain(x.size());
        const Team team{one_after_another, draw(1, 3)};
        convolution_weight_gradient(&s, x.data(), dy.data(), dw.data(), db.data(), &team);
        if (input) convolution_input_gradient(&s, dy.data(), w.data(), dx.data(), &team);
        for (int64_t n = 0; n < s.samples; ++n)
            for (int64_t oy = 0; oy < out; ++oy)
                for (int64_t ox = 0; ox < out; ++ox)
                    for (int64_t o = 0; o < s.outputs; ++o) {
                        const float g = number(dy[size_t(((n * out + oy) * out + ox) * s.outputs + o)]);
                        db_plain[size_t(o)] += g;
                        for (int64_t ky = 0; ky < s.kernel; ++ky)
                            for (int64_t kx = 0; kx < s.kernel; ++kx) {
                                const int64_t y = oy * s.stride + ky - s.padding, x0 = ox * s.stride + kx - s.padding;
                                if (y < 0 || x0 < 0 || y >= s.side || x0 >= s.side) continue;
                                for (int64_t c = 0; c < s.channels; ++c) {
                                    const size_t at = size_t(((n * s.side + y) * s.side + x0) * s.channels + c);
                                    const size_t to = size_t(((o * s.kernel + ky) * s.kernel + kx) * s.channels + c);
                                    dw_plain[to] += g * number(x[at]);
                                    dx_plain[at] += g * number(w[to]);
                                }
                            }
                    }
        bool same = dw == dw_plain && db == db_plain;
        for (size_t i = 0; input && i < dx.size(); ++i)
            same = same && std::abs(number(dx[i]) - dx_plain[i]) <= std::abs(dx_plain[i]) / 256;  // rounded to bfloat16
        if (!same) {
            std::printf("round %d: %ld samples, side %ld, %ld -> %ld channels, kernel %ld, stride %ld, padding %ld differ\n", round,
                        long(s.samples), long(s.side), long(s.channels), long(s.outputs), long(s.kernel), long(s.stride),
                        long(s.padding));
            return 1;
        }
    }
    std::printf("%d random convolutions: all gradients as a plain loop gives them\n", rounds);
}
