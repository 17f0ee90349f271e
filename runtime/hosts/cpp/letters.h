// Classes of code points that word tokenizers need, of which C++ has no functions for all of Unicode.

#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <vector>

#include "unicode_tables.h"

// A set of code points, from the distances between those at which membership changes.
class CodePointSet {
public:
    template <std::size_t N>
    explicit CodePointSet(const std::uint32_t (&distances)[N]) : edges_(N) {
        std::partial_sum(std::begin(distances), std::end(distances), edges_.begin());
    }
    bool contains(char32_t point) const {
        return (std::upper_bound(edges_.begin(), edges_.end(), point) - edges_.begin()) % 2 == 1;
    }

private:
    std::vector<std::uint32_t> edges_;
};

// Letters, numbers and the underscore, by the definition of \w in Python's regular expressions.
inline bool is_word(char32_t point) {
    static const CodePointSet set(WORD_EDGES);
    return set.contains(point);
}

// Combining marks and joiners, which continue a word of a tokenizer that normalises.
inline bool is_continuation(char32_t point) {
    static const CodePointSet set(CONTINUATION_EDGES);
    return set.contains(point);
}
