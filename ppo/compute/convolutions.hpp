// Drop-in for torch's Conv2d, in stacks, for one kind of processor: convolutions.cpp includes this file once for each,
// in a namespace of its own, and has the letters. There, before, are:
//
//     Number, Lane   what is stored; what one lane of a vector multiplies: kPer Numbers
//     Row, Sums      vectors of kLanes Lanes, and of as many float32 sums
//     kSums          vectors of sums that registers hold beside what they are made of
//     kMost          vectors of weights that they hold too
//     WIDE           the attribute of functions that are compiled for this processor alone
//
// All functions keep kSums vectors of sums in registers, or nearly as many, so that each value that is loaded is used
// many times.

namespace {

constexpr int kBlock = 12;  // positions whose inputs write_block reads at a time, each by an address of its own
constexpr int64_t kSlack = 4 * kLanes;  // numbers after an array that its last vector may read, for nothing

template <class T> using Array = std::unique_ptr<T[]>;
template <int Count> using UpTo = std::make_integer_sequence<int, Count>;

template <class T, class Given>
auto as(Given* numbers) { return (std::conditional_t<std::is_const_v<Given>, const T, T>*)numbers; }

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

// Number of vectors to process at a time of `numbers`, a multiple of kLanes.
inline int64_t vectors_of(int64_t numbers) {
    return numbers % (kMost * kLanes) == 0 ? kMost : numbers > kLanes ? 2 : 1;
}

// Products of inputs and weights, summed: the forward pass and the gradient of the input. What a position's inputs are
// is cut into taps, runs of Lanes that are neighbours in memory.

struct Tap {
    int64_t in, weights;  // where it begins, relative to the position's first Lane and to w
};

struct Products {
    const Tap* taps;
    int64_t count, lanes;               // number of taps, and of the Lanes of each
    int64_t in_step, w_step, out_step;  // between positions, between the weights of a tap, between results
};

// Writes the results of `Block` positions, `Vectors` vectors each. Sums begin at `bias`, or at zero if it is null.
template <int Vectors, int Block>
WIDE void write_block(const Products& p, const Lane* in, const Lane* w, const float* bias, bool relu,
                      const Number* mask, Number* out) {
    Sums sums[Block][Vectors];
    for (int v = 0; v < Vectors; ++v) {
        const Sums start = bias ? load_sums(bias + kLanes * v) : Sums{};
        for (int b = 0; b < Block; ++b) sums[b][v] = start;
    }
    for (const Tap* tap = p.taps; tap < p.taps + p.count; ++tap) {
        const Lane *inputs = in + tap->in, *weights = w + tap->weights;
        for (int64_t i = 0; i < p.lanes; ++i, weights += p.w_step) {
            Row row[Vectors];
            for (int v = 0; v < Vectors; ++v) row[v] = load(weights + kLanes * v);
            for (int b = 0; b < Block; ++b) {
                const Row input = repeat(inputs[b * p.in_step + i]);
                for (int v = 0; v < Vectors; ++v) sums[b][v] = add_product(sums[b][v], row[v], input);
            }
        }
    }
    for (int b = 0; b < Block; ++b)
        for (int v = 0; v < Vectors; ++v) {
            const int64_t at = b * p.out_step + kLanes * v;
            write(sums[b][v], relu, mask ? mask + at : nullptr, out + at);
        }
}

using WriteBlock = void (*)(const Products&, const Lane*, const Lane*, const float*, bool, const Number*, Number*);

template <int Vectors, int... Less>
WriteBlock writer(int64_t block, std::integer_sequence<int, Less...>) {
    static const WriteBlock of_size[] = {write_block<Vectors, Less + 1>...};
    return of_size[block - 1];
}

// Writes `count` results of `width` numbers, a multiple of kLanes, for positions that are neighbours.
WIDE void write_line(const Products& p, const Lane* in, const Lane* w, const float* bias, bool relu, const Number* mask,
                     Number* out, int64_t count, int64_t width) {
    for (int64_t i = 0, vectors; i < width; i += vectors * kLanes) {
        vectors = vectors_of(width - i);
        const int64_t largest = vectors == 1 ? kBlock : kSums / vectors, blocks = (count + largest - 1) / largest;
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t begin = count * b / blocks, block = count * (b + 1) / blocks - begin;
            const auto write = vectors == kMost ? writer<kMost>(block, UpTo<kSums / kMost>())
                               : vectors == 2 ? writer<2>(block, UpTo<kSums / 2>())
                                              : writer<1>(block, UpTo<kBlock>());
            const int64_t at = begin * p.out_step + i;
            write(p, in + begin * p.in_step, w + i, bias ? bias + i : nullptr, relu, mask ? mask + at : nullptr,
                  out + at);
        }
    }
}

// Forward: y[o] = bias[o] + sum over the taps and channels of x[c] * w[o][ky][kx][c]. kPer channels make a Lane, a
// row of the kernel is a tap, the outputs fill the vectors.
struct Forward : Sizes {
    std::vector<Tap> taps;
    Array<Lane> w;  // (K, K * C / kPer, O)
    Array<float> starts;

    explicit Forward(const Layer& layer) : Sizes(layer) {
        const int64_t lanes = weights() / kPer;
        w = new_array<Lane>(lanes * outputs);
        starts = new_array<float>(outputs);
        const Lane* given = as<Lane>(weight);
        for (int64_t o = 0; o < outputs; ++o) {
            starts[size_t(o)] = to_float(as<Number>(bias)[o]);
            for (int64_t i = 0; i < lanes; ++i) w[size_t(i * outputs + o)] = given[o * lanes + i];
        }
        for (int64_t ky = 0; ky < kernel; ++ky)
            taps.push_back({ky * padded_side() * channels / kPer, ky * row() / kPer * outputs});
    }

    // `padded` is room for an image with its padding, whose edge is zero.
    void of_sample(const Number* x, Number* to, Number* padded) const {
        const int64_t wide = padded_side() * channels;
        if (padding) {
            for (int64_t i = 0; i < side; ++i)
                std::memcpy(padded + (i + padding) * wide + padding * channels, x + i * line(),
                            sizeof(Number) * size_t(line()));
            x = padded;
        }
        const Products products{taps.data(), kernel, row() / kPer, stride * channels / kPer, outputs, outputs};
        for (int64_t oy = 0; oy < out_side; ++oy)
            write_line(products, (const Lane*)(x + oy * stride * wide), w.get(), starts.get(), relu, nullptr,
                       to + oy * out_side * outputs, out_side, outputs);
    }
};

// Gradient of the input: dx[y][x][c] = sum over the outputs and the taps (ky, kx) that saw it of dy[o] *
// w[o][ky][kx][c]. kPer outputs make a Lane. Inputs whose places differ by a multiple of the stride were seen by the
// same taps; without padding and with K and H multiples of S, so were S neighbours of a row, whose channels are
// neighbours in memory too.
struct InputGradient : Sizes {
    struct Phase {
        int64_t y, x, columns;
        std::vector<Tap> taps;
        std::vector<int64_t> rows;  // the row of dy of each tap, relative to that of the position
    };
    std::vector<Phase> phases;
    Array<Lane> w;  // (O / kPer, K, K, C)
    int64_t lanes, margin, padded;

    explicit InputGradient(const Layer& layer)
        : Sizes(layer), lanes(outputs / kPer), margin((kernel + stride - 1) / stride) {
        padded = out_side + 2 * margin + 2;
        w = new_array<Lane>(lanes * weights());
        for (int64_t o = 0; o < lanes; ++o) {
            const Number* first = as<Number>(weight) + kPer * o * weights();
            interleave(first, kPer > 1 ? first + weights() : nullptr, w.get() + o * weights(), weights());
        }
        const bool whole = padding == 0 && kernel % stride == 0 && side % stride == 0;
        const int64_t columns = whole ? stride : 1;
        for (int64_t y = 0; y < stride && y < side; ++y)
            for (int64_t x = 0; x < stride && x < side; x += columns) {
                Phase phase{y, x, columns, {}, {}};
                for (int64_t ky = 0; ky < kernel; ++ky)
                    for (int64_t kx = 0; kx < kernel; ++kx) {
                        const int64_t up = y + padding - ky, left = x + padding - kx;
                        if (up % stride || left % stride) continue;
                        phase.taps.push_back({(up / stride * padded + left / stride) * lanes,
                                              (ky * kernel + kx) * channels});
                        phase.rows.push_back(up / stride);
                    }
                phases.push_back(phase);
            }
    }

    int64_t room() const { return padded * padded * lanes; }

    // `out` is room for dy with zeros around it; zeros are written where `mask` (H, W, C), a ReLU's output, is zero.
    void of_sample(const Number* dy, const Number* mask, Number* dx, Lane* out) const {
        for (int64_t oy = 0; oy < out_side; ++oy)
            std::memcpy(out + ((oy + margin) * padded + margin) * lanes, dy + oy * out_side * outputs,
                        sizeof(Lane) * size_t(out_side * lanes));
        for (const Phase& phase : phases)
            for (int64_t y = phase.y; y < side; y += stride) {
                const int64_t at = y * line() + phase.x * channels, count = (side - phase.x + stride - 1) / stride;
                size_t first = 0, last = phase.rows.size();  // the taps whose row of dy there is; rows go down
                while (first < last && y / stride + phase.rows[first] >= out_side) ++first;
                while (first < last && y / stride + phase.rows[last - 1] < 0) --last;
                const Products products{phase.taps.data() + first, int64_t(last - first), lanes, lanes, weights(),
                                        stride * channels};
                write_line(products, out + ((y / stride + margin) * padded + margin) * lanes, w.get(), nullptr, false,
                           mask ? mask + at : nullptr, dx + at, count, phase.columns * channels);
            }
    }
};

// Gradient of the weights: dw[o][ky][kx][c] = sum over samples and positions of dy[o] * x[c] below it. kPer samples
// make a Lane. For one row ky of the kernel, the K * C inputs under a position are neighbours in memory: they fill the
// vectors.

// Adds, for `Vectors` vectors of inputs and `Outputs` outputs, the sum over all positions to dw.
template <int Vectors, int Outputs>
WIDE void add_products(const Sizes& s, const Lane* x, const Lane* dy, int64_t line, float* dw, int64_t valid) {
    Sums sums[Outputs][Vectors] = {};
    for (int64_t oy = 0; oy < s.out_side; ++oy) {
        const Lane* in = x + oy * s.stride * line;
        for (int64_t ox = 0; ox < s.out_side; ++ox, in += s.stride * s.channels, dy += s.outputs) {
            Row inputs[Vectors];
            for (int v = 0; v < Vectors; ++v) inputs[v] = load(in + kLanes * v);
            for (int o = 0; o < Outputs; ++o) {
                const Row gradient = repeat(dy[o]);
                for (int v = 0; v < Vectors; ++v) sums[o][v] = add_product(sums[o][v], inputs[v], gradient);
            }
        }
    }
    for (int o = 0; o < Outputs; ++o)
        for (int v = 0; v < Vectors; ++v)
            add_to(dw + o * s.weights() + kLanes * v, sums[o][v], valid - kLanes * v);
}

// For all outputs, as many at a time as registers hold sums for.
template <int Vectors>
WIDE void add_row(const Sizes& s, const Lane* x, const Lane* dy, int64_t line, float* dw, int64_t valid) {
    constexpr int few = kSums / 3, many = Vectors == 2 ? kSums / 2 : Vectors == 1 ? 2 * few : few;
    for (int64_t o = 0, count; o < s.outputs; o += count) {
        count = (s.outputs - o) % many == 0 ? many : few;
        const auto add = count == many ? add_products<Vectors, many> : add_products<Vectors, few>;
        add(s, x, dy + o, line, dw + o * s.weights(), valid);
    }
}

// Adds the gradients of two samples, or of one if `x[1]` is null, to dw (O, K, K, C) and to db (O,). `in` is room for
// the Lanes of their images with padding, whose edge is zero, `out` for those of dy.
WIDE void add_weight_gradient(const Sizes& s, const Number* const x[2], const Number* const dy[2], float* dw,
                              float* db, Lane* in, Lane* out) {
    const int64_t line = s.padded_side() * s.channels;
    for (int64_t y = 0; y < s.side; ++y)
        interleave(x[0] + y * s.line(), x[1] ? x[1] + y * s.line() : nullptr,
                   in + (y + s.padding) * line + s.padding * s.channels, s.line());
    interleave(dy[0], x[1] ? dy[1] : nullptr, out, s.size());
    const Row ones = repeat(kOnes);
    for (int64_t o = 0; o < s.outputs; o += kLanes) {
        Sums sums[4] = {load_sums(db + o)};  // the others begin at zero
        for (int64_t i = 0; i < s.places(); ++i)  // four sums, as each addition waits for the one before it
            sums[i % 4] = add_product(sums[i % 4], load(out + i * s.outputs + o), ones);
        store_sums(db + o, (sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
    for (int64_t ky = 0; ky < s.kernel; ++ky)
        for (int64_t i = 0, vectors; i < s.row(); i += vectors * kLanes) {
            const int64_t left = (s.row() - i + kLanes - 1) / kLanes;
            vectors = left == 1 ? 1 : left % 3 == 0 ? 3 : 2;
            const auto add = vectors == 1 ? add_row<1> : vectors == 2 ? add_row<2> : add_row<3>;
            add(s, in + ky * line + i, out, line, dw + ky * s.row() + i, s.row() - i);
        }
}

// What one thread needs to take kPer samples at a time backward through all layers.
struct Backward {
    struct Room {
        Array<Lane> in, out, around;  // for add_weight_gradient and InputGradient
        Array<Number> dy[2];          // gradients of this layer's output, before its ReLU
    };
    const std::vector<Sizes>& layers;
    const std::vector<InputGradient>& gradients;  // of each layer's input, the first one's only if it is wanted
    std::vector<Room> rooms;

    Backward(const std::vector<Sizes>& layers, const std::vector<InputGradient>& gradients)
        : layers(layers), gradients(gradients) {
        for (const Sizes& s : layers) {
            Room room;
            room.in = new_zeros<Lane>(s.padded_side() * s.padded_side() * s.channels);
            room.out = new_array<Lane>(s.size());
            for (auto& dy : room.dy) dy = new_array<Number>(s.size());
            rooms.push_back(std::move(room));
        }
        for (size_t i = 0; i < gradients.size(); ++i)
            rooms[rooms.size() - 1 - i].around = new_zeros<Lane>(gradients[gradients.size() - 1 - i].room());
    }

    // Samples `n` and `n + 1`, or `n` alone; `sums` has dw and db of each layer, one after the other.
    WIDE void of_samples(int64_t n, int64_t count, const Number* x, const Number* dy, Number* dx, float* sums) {
        const size_t skipped = layers.size() - gradients.size();
        const Sizes& top = layers.back();
        for (int64_t k = 0; k < count && top.relu; ++k)
            for (int64_t i = 0, from = (n + k) * top.size(); i < top.size(); i += kLanes)
                keep_positive(dy + from + i, as<Number>(top.y) + from + i, rooms.back().dy[k].get() + i);
        for (size_t l = layers.size(); l-- > 0;) {
            const Sizes& s = layers[l];
            Room& room = rooms[l];
            const Number* below = l ? as<Number>(layers[l - 1].y) : x;
            const Number* inputs[2] = {below + n * s.image(), count > 1 ? below + (n + 1) * s.image() : nullptr};
            const bool given = l + 1 == layers.size() && !s.relu;
            const Number* outputs[2] = {given ? dy + n * s.size() : room.dy[0].get(),
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

static void forward(const Layer* layers, int64_t count, int64_t samples, const void* x, const Team& team) {
    const std::vector<Forward> stack(layers, layers + count);
    share(team, samples, [&](int64_t, int64_t first, int64_t last) {
        std::vector<Array<Number>> padded;
        for (const Forward& s : stack)
            padded.push_back(s.padding ? new_zeros<Number>(s.padded_side() * s.padded_side() * s.channels) : nullptr);
        for (int64_t n = first; n < last; ++n) {
            const Number* in = as<Number>(x) + n * stack.front().image();
            for (size_t l = 0; l < stack.size(); ++l) {
                Number* out = as<Number>(stack[l].y) + n * stack[l].size();
                stack[l].of_sample(in, out, padded[l].get());
                in = out;
            }
        }
    });
}

static void backward(const Layer* layers, int64_t count, int64_t samples, const void* x, const void* dy, void* dx,
                     const Team& team) {
    const std::vector<Sizes> stack(layers, layers + count);
    const std::vector<InputGradient> gradients(layers + (dx ? 0 : 1), layers + count);
    int64_t size = 0;
    for (const Sizes& s : stack) size += s.outputs * (s.weights() + 1);
    std::vector<float> sums(
        size_t(size * team.threads));  // of each part: dw and db of each layer, one after the other
    share(team, (samples + kPer - 1) / kPer, [&](int64_t part, int64_t first, int64_t last) {
        Backward room(stack, gradients);
        for (int64_t n = kPer * first; n < kPer * last; n += kPer)
            room.of_samples(n, std::min(kPer, samples - n), as<Number>(x), as<Number>(dy), as<Number>(dx),
                            sums.data() + size * part);
    });
    for (int64_t part = 1; part < team.threads; ++part)
        for (int64_t i = 0; i < size; ++i) sums[size_t(i)] += sums[size_t(size * part + i)];
    const float* from = sums.data();
    for (const Sizes& s : stack) {
        const int64_t weights = s.outputs * s.weights();
        std::memcpy(s.weight_gradient, from, sizeof(float) * size_t(weights));
        std::memcpy(s.bias_gradient, from + weights, sizeof(float) * size_t(s.outputs));
        from += weights + s.outputs;
    }
}
