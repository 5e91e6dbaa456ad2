// States as bytes: fields one after the other, little-endian, without gaps. The caller adds version and checksum.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <type_traits>

namespace nes {

struct Sizer {
    size_t size = 0;
    template <class Field>
    void operator()(Field&) {
        size += sizeof(Field);
    }
};

// `Store` writes fields to bytes, otherwise bytes to fields.
template <bool kStore>
class Archive {
 public:
    using Byte = std::conditional_t<kStore, uint8_t, const uint8_t>;
    Archive(Byte* bytes, size_t size) : at_(bytes), end_(bytes + size) {}

    template <class Integer>
    std::enable_if_t<std::is_integral_v<Integer>> operator()(Integer& field) {
        require(sizeof field);
        using Bits = std::make_unsigned_t<Integer>;
        Bits bits = kStore ? static_cast<Bits>(field) : 0;
        for (size_t i = 0; i < sizeof field; ++i) {
            if constexpr (kStore)
                at_[i] = static_cast<uint8_t>(bits >> (8 * i));
            else
                bits |= static_cast<Bits>(static_cast<Bits>(at_[i]) << (8 * i));
        }
        if constexpr (!kStore) field = static_cast<Integer>(bits);
        at_ += sizeof field;
    }

    template <size_t N>
    void operator()(std::array<uint8_t, N>& field) {
        require(N);
        for (size_t i = 0; i < N; ++i) {
            if constexpr (kStore)
                at_[i] = field[i];
            else
                field[i] = at_[i];
        }
        at_ += N;
    }

    bool at_end() const { return at_ == end_; }

 private:
    void require(size_t bytes) const {
        if (static_cast<size_t>(end_ - at_) < bytes) throw std::invalid_argument("state: too short");
    }

    Byte* at_;
    Byte* end_;
};

using Writer = Archive<true>;
using Reader = Archive<false>;

}  // namespace nes
