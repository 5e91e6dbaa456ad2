// Random stacks of convolutions, in buffers of exactly their size, under the address sanitizer: `make fuzz`.
// Small integers, so that the sums are exact and can be compared with a plain loop.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "../ppo/compute/convolutions.cpp"

using Floats = std::vector<float>;

// Rounded to what is stored: to the nearest bfloat16 number, to the even one of two; or not at all.
template <class T> T stored(float value);

template <> uint16_t stored(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

template <> float stored(float value) { return value; }

static float number(uint16_t value) {
    const uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

static float number(float value) { return value; }

static void one_after_another(void (*function)(void*), void* data, unsigned threads, unsigned) {
    for (unsigned i = 0; i < threads; ++i) function(data);
}

// One layer of a stack: what the two functions under test read and write, and what a plain loop gives.
template <class T>
struct Case {
    Layer layer;
    int64_t out;  // side of its output
    std::vector<T> weight, bias, y, y_plain, dy_plain;
    Floats dw, db, dw_plain, db_plain;
};

// Calls visit(position of y, of x, of w) for every product of one sample; those of outputs and inputs begin at zero.
template <class T, class Visit>
static void products(const Case<T>& c, const Visit& visit) {
    const Layer& s = c.layer;
    for (int64_t oy = 0; oy < c.out; ++oy)
        for (int64_t ox = 0; ox < c.out; ++ox)
            for (int64_t o = 0; o < s.outputs; ++o)
                for (int64_t ky = 0; ky < s.kernel; ++ky)
                    for (int64_t kx = 0; kx < s.kernel; ++kx) {
                        const int64_t y = oy * s.stride + ky - s.padding, x = ox * s.stride + kx - s.padding;
                        if (y < 0 || x < 0 || y >= s.side || x >= s.side) continue;
                        for (int64_t k = 0; k < s.channels; ++k)
                            visit(size_t((oy * c.out + ox) * s.outputs + o), size_t((y * s.side + x) * s.channels + k),
                                  size_t(((o * s.kernel + ky) * s.kernel + kx) * s.channels + k));
                    }
}

// Tries `rounds` stacks of numbers that are stored as T; returns 1 after the first that differs.
template <class T>
static int fuzz(Kind kind, const char* name, bool supported, int rounds) {
    using Numbers = std::vector<T>;
    if (!supported) return std::printf("no %s here: nothing was run\n", name), 0;
    std::mt19937 random(0);
    const auto draw = [&](int low, int high) { return int64_t(low + int(random() % unsigned(high - low + 1))); };
    const auto fill = [&](Numbers& numbers, size_t count, int largest) {
        numbers.resize(count);
        for (auto& value : numbers) value = stored<T>(float(draw(-largest, largest)));
    };
    for (int round = 0; round < rounds; ++round) {
        const int64_t samples = draw(1, 5), relu = draw(0, 1);
        const bool input = draw(0, 1);
        std::vector<Case<T>> stack(size_t(draw(1, 3)));
        int64_t side = draw(1, stack.size() == 1 ? 21 : 13), channels = input ? 16 * draw(1, 2) : 2 * draw(1, 4);
        for (Case<T>& c : stack) {
            Layer& s = c.layer;
            s = {side, channels, 16 * draw(1, stack.size() == 1 ? 5 : 2), draw(1, 4), draw(1, 4), 0, relu, {}, {}, {},
                 {},   {}};
            s.kernel = std::min(s.kernel, side);
            s.padding = draw(0, int(s.kernel) - 1);
            c.out = (side + 2 * s.padding - s.kernel) / s.stride + 1;
            const size_t weights = size_t(s.outputs * s.kernel * s.kernel * s.channels);
            const size_t outputs = size_t(samples * c.out * c.out * s.outputs);
            fill(c.weight, weights, 1);
            fill(c.bias, size_t(s.outputs), 2);
            c.y = c.y_plain = c.dy_plain = Numbers(outputs);
            c.dw = c.dw_plain = Floats(weights);
            c.db = c.db_plain = Floats(size_t(s.outputs));
            s.weight = c.weight.data(), s.bias = c.bias.data(), s.y = c.y.data();
            s.weight_gradient = c.dw.data(), s.bias_gradient = c.db.data();
            side = c.out, channels = s.outputs;
        }
        Numbers x, dy, dx, dx_plain;
        fill(x, size_t(samples * stack[0].layer.side * stack[0].layer.side * stack[0].layer.channels), 2);
        fill(dy, stack.back().y.size(), 2);
        dx = dx_plain = Numbers(x.size());

        const Team team{one_after_another, draw(1, 3)};
        std::vector<Layer> layers;
        for (const Case<T>& c : stack) layers.push_back(c.layer);
        convolutions_forward(kind, layers.data(), int64_t(layers.size()), samples, x.data(), &team);
        convolutions_backward(kind, layers.data(), int64_t(layers.size()), samples, x.data(), dy.data(),
                              input ? dx.data() : nullptr, &team);

        for (int64_t n = 0; n < samples; ++n) {
            const T* below = x.data() + size_t(n) * (x.size() / size_t(samples));
            for (Case<T>& c : stack) {
                const size_t size = c.y.size() / size_t(samples);
                Floats sums(size);
                for (size_t i = 0; i < size; ++i) sums[i] = number(c.bias[i % c.bias.size()]);
                products(
                    c, [&](size_t out, size_t in, size_t w) { sums[out] += number(below[in]) * number(c.weight[w]); });
                T* y = c.y_plain.data() + size_t(n) * size;
                for (size_t i = 0; i < size; ++i) y[i] = stored<T>(relu ? std::max(sums[i], 0.0f) : sums[i]);
                below = y;
            }
            for (size_t l = stack.size(); l-- > 0;) {
                Case<T>& c = stack[l];
                const size_t size = c.y.size() / size_t(samples), first = size_t(n) * size;
                Numbers& given = l + 1 == stack.size() ? dy : c.dy_plain;
                Numbers& above = l ? stack[l - 1].y_plain : x;
                const size_t inputs = above.size() / size_t(samples);
                Floats gradients(size), sums(inputs);
                for (size_t i = 0; i < size; ++i) {
                    gradients[i] = relu && number(c.y_plain[first + i]) <= 0 ? 0 : number(given[first + i]);
                    c.db_plain[i % c.db.size()] += gradients[i];
                }
                products(c, [&](size_t out, size_t in, size_t w) {
                    c.dw_plain[w] += gradients[out] * number(above[size_t(n) * inputs + in]);
                    sums[in] += gradients[out] * number(c.weight[w]);
                });
                Numbers& to = l ? stack[l - 1].dy_plain : dx_plain;
                for (size_t i = 0; i < inputs; ++i) to[size_t(n) * inputs + i] = stored<T>(sums[i]);
            }
        }
        bool same = true;
        for (size_t i = 0; input && i < dx.size(); ++i) same = same && number(dx[i]) == number(dx_plain[i]);
        for (const Case<T>& c : stack) {
            same = same && c.dw == c.dw_plain && c.db == c.db_plain;
            for (size_t i = 0; i < c.y.size(); ++i) same = same && number(c.y[i]) == number(c.y_plain[i]);
        }
        if (!same) {
            std::printf("%s, round %d: %ld samples, ReLU %ld, %ld threads, and of each layer\n", name, round,
                        long(samples), long(relu), long(team.threads));
            for (const Layer& s : layers)
                std::printf("side %ld, %ld -> %ld channels, kernel %ld, stride %ld, padding %ld\n", long(s.side),
                            long(s.channels), long(s.outputs), long(s.kernel), long(s.stride), long(s.padding));
            return 1;
        }
    }
    std::printf("%s, %d random stacks: outputs and all gradients as a plain loop gives them\n", name, rounds);
    return 0;
}

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 100;
    const bool wide = __builtin_cpu_supports("avx512f"), narrow = __builtin_cpu_supports("avx2");
    return fuzz<uint16_t>(kBfloat16, "AVX512-BF16", __builtin_cpu_supports("avx512bf16"), rounds) ||
           fuzz<float>(kAvx512, "AVX-512", wide, rounds) ||
           fuzz<float>(kAvx2, "AVX2", narrow && __builtin_cpu_supports("fma"), rounds);
}
