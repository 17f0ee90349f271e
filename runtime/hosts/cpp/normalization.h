// Unicode normalisation, forms NFC, NFD, NFKC and NFKD (Unicode Standard Annex 15; Hangul: The Unicode Standard, 3.12).

#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unicode_tables.h"

// The tables of unicode_tables.h, opened for look-ups.
class UnicodeData {
public:
    static const UnicodeData& get() {
        static const UnicodeData data;
        return data;
    }

    int combining_class(char32_t c) const {
        const auto after = std::upper_bound(class_starts_.begin(), class_starts_.end(), c);
        return after == class_starts_.begin() ? 0 : classes_[after - class_starts_.begin() - 1];
    }
    // Return one decomposition of a code point, which may decompose further; empty if there is none.
    const std::u32string& decomposition(char32_t c, bool compatible) const {
        static const std::u32string none;
        if (const auto found = canonical_.find(c); found != canonical_.end()) return found->second;
        if (const auto found = compatible_.find(c); compatible && found != compatible_.end()) return found->second;
        return none;
    }
    // Return the code point that two are composed to; 0: none.
    char32_t composition(char32_t first, char32_t second) const {
        const auto found = compositions_.find({first, second});
        return found == compositions_.end() ? 0 : found->second;
    }

private:
    UnicodeData() {
        char32_t code = 0;
        for (std::size_t i = 0; i < std::size(COMBINING_CLASSES); i += 2) {
            class_starts_.push_back(code += COMBINING_CLASSES[i]);
            classes_.push_back(static_cast<int>(COMBINING_CLASSES[i + 1]));
        }
        code = 0;
        for (std::size_t i = 0; i < std::size(CANONICAL); i += 3) {
            const char32_t first = CANONICAL[i + 1], second = CANONICAL[i + 2];
            code += CANONICAL[i];
            canonical_[code] = second ? std::u32string{first, second} : std::u32string{first};
            if (second) compositions_[{first, second}] = code;
        }
        code = 0;
        for (const std::uint32_t distance : UNCOMPOSED) {
            const std::u32string& pair = canonical_.at(code += distance);
            compositions_.erase({pair[0], pair[1]});
        }
        code = 0;
        for (std::size_t i = 0; i < std::size(COMPATIBLE); i += 2 + COMPATIBLE[i + 1]) {
            const auto points = std::begin(COMPATIBLE) + i + 2;
            compatible_[code += COMPATIBLE[i]] = std::u32string(points, points + COMPATIBLE[i + 1]);
        }
    }

    std::vector<char32_t> class_starts_;  // code points at which the combining class changes
    std::vector<int> classes_;            // the class from there on
    std::unordered_map<char32_t, std::u32string> canonical_, compatible_;
    std::map<std::pair<char32_t, char32_t>, char32_t> compositions_;
};

// Hangul syllables: leading consonants L, vowels V and trailing consonants T, composed by arithmetic.
namespace hangul {
inline constexpr char32_t S = 0xAC00, L = 0x1100, V = 0x1161, T = 0x11A7;  // T itself is no consonant: an absent one
inline constexpr char32_t LS = 19, VS = 21, TS = 28;

inline bool is_syllable(char32_t c) { return c >= S && c < S + LS * VS * TS; }

inline std::u32string decomposition(char32_t c) {
    const char32_t index = c - S, trailing = index % TS;
    std::u32string points{L + index / (VS * TS), V + index / TS % VS};
    if (trailing) points += T + trailing;
    return points;
}

inline char32_t composition(char32_t first, char32_t second) {  // 0: none
    if (first >= L && first < L + LS && second >= V && second < V + VS) {
        return S + ((first - L) * VS + (second - V)) * TS;
    }
    const bool open = is_syllable(first) && (first - S) % TS == 0;
    return open && second > T && second < T + TS ? first + (second - T) : 0;
}
}  // namespace hangul

inline void append_decomposed(char32_t c, bool compatible, std::u32string& into) {
    if (hangul::is_syllable(c)) {
        into += hangul::decomposition(c);
        return;
    }
    const std::u32string& points = UnicodeData::get().decomposition(c, compatible);
    if (points.empty()) into += c;
    for (const char32_t point : points) append_decomposed(point, compatible, into);
}

// Sort each run of combining marks by class; marks of one class keep their order.
inline void order_marks(std::u32string& text) {
    const auto combining = [](char32_t c) { return UnicodeData::get().combining_class(c); };
    for (auto at = text.begin(); at != text.end();) {
        const auto first = std::find_if(at, text.end(), [&](char32_t c) { return combining(c) > 0; });
        at = std::find_if(first, text.end(), [&](char32_t c) { return combining(c) == 0; });
        std::stable_sort(first, at, [&](char32_t a, char32_t b) { return combining(a) < combining(b); });
    }
}

// Compose each starter with the marks after it that are not blocked by another of the same class, and with a next starter.
inline std::u32string composed(const std::u32string& text) {
    const UnicodeData& data = UnicodeData::get();
    std::u32string made;
    std::size_t starter = std::u32string::npos;
    int last = 0;  // class of the last code point that stays after the starter
    for (const char32_t c : text) {
        const int now = data.combining_class(c);
        const bool adjacent = starter != std::u32string::npos && starter + 1 == made.size();
        if (starter != std::u32string::npos && (adjacent || last < now)) {
            char32_t together = hangul::composition(made[starter], c);
            if (!together) together = data.composition(made[starter], c);
            if (together) {
                made[starter] = together;
                continue;
            }
        }
        if (now == 0) starter = made.size();
        last = now;
        made += c;
    }
    return made;
}

// Return a text in a form: NFC, NFD, NFKC or NFKD.
inline std::u32string normalized(const std::u32string& text, const std::string& form) {
    if (std::all_of(text.begin(), text.end(), [](char32_t c) { return c < 0x80; })) return text;
    std::u32string points;
    for (const char32_t c : text) append_decomposed(c, form == "NFKC" || form == "NFKD", points);
    order_marks(points);
    return form == "NFC" || form == "NFKC" ? composed(points) : points;
}
