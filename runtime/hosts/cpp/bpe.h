// Byte-pair tokenizer: text to ids and back by the rules of docs/formats.md.

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "json.h"

// White space by the definition of \s in Python.
inline bool is_space(char32_t c) {
    static const std::u32string spaces = U"\u00a0\u1680\u2028\u2029\u202f\u205f\u3000";
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || (c >= 0x2000 && c <= 0x200a) ||
           spaces.find(c) != std::u32string::npos;
}

// Decodes UTF-8 incrementally: bytes of an incomplete character are held back, invalid bytes become U+FFFD.
class Utf8Stream {
public:
    std::string feed(std::string_view bytes) {
        std::string text;
        for (const char byte : bytes) add(static_cast<unsigned char>(byte), text);
        return text;
    }
    std::string flush() {
        const bool open = !held_.empty();
        held_.clear();
        return open ? REPLACEMENT : "";
    }

private:
    static constexpr const char* REPLACEMENT = "\xEF\xBF\xBD";

    void add(unsigned char byte, std::string& text) {
        if (!held_.empty()) {
            if (byte < least_ || byte > most_) {  // no continuation of the character
                text += flush();
            } else {
                held_ += static_cast<char>(byte);
                least_ = 0x80, most_ = 0xBF;
                if (held_.size() == length_) text += std::exchange(held_, "");
                return;
            }
        }
        if (byte < 0x80) {
            text += static_cast<char>(byte);
        } else if (byte < 0xC2 || byte > 0xF4) {
            text += REPLACEMENT;
        } else {  // first byte; the range of the second excludes overlong forms and surrogates
            held_ = static_cast<char>(byte);
            length_ = byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
            least_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
            most_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
        }
    }

    std::string held_;
    std::size_t length_ = 0;
    unsigned char least_ = 0, most_ = 0;
};

class BytePairs {
public:
    BytePairs(const std::vector<std::string>& vocabulary, const Json& merges) {
        std::unordered_map<std::string, std::int64_t> ids;
        for (const std::string& token : vocabulary) {
            ids.emplace(token, ids.size());
            bytes_.push_back(token == "<bos>" || token == "<eos>" ? "" : bytes_of(token));
        }
        const auto id = [&](const std::string& token) {
            const auto found = ids.find(token);
            return found == ids.end() ? damaged() : found->second;
        };
        for (int byte = 0; byte < 256; byte++) byte_ids_[byte] = id(to_utf8(signs()[byte]));
        for (const Json& merge : merges.items) {
            std::vector<std::int64_t> pair;
            for (const Json& part : merge.items) {
                if (part.kind != Json::number || !(part.value >= 0 && part.value < vocabulary.size())) damaged();
                pair.push_back(static_cast<std::int64_t>(part.value));
            }
            if (pair.size() != 2) damaged();
            ranks_.emplace(std::pair(pair[0], pair[1]), joined_.size());
            joined_.push_back(id(vocabulary[pair[0]] + vocabulary[pair[1]]));
        }
    }

    std::vector<std::int64_t> encode(const std::u32string& text) const {
        std::vector<std::int64_t> ids;
        for (std::size_t i = 0; i < text.size();) {
            const std::size_t end = word_end(text, i);
            std::string word;
            for (; i < end; i++) word += to_utf8(text[i]);
            const auto tokens = encode_word(word);
            ids.insert(ids.end(), tokens.begin(), tokens.end());
        }
        return ids;
    }

    const std::string& bytes(std::int64_t id) const { return bytes_.at(id); }

private:
    enum Kind { letter, digit, mark, space };

    [[noreturn]] static std::int64_t damaged() { throw HostError("the model's byte pairs are damaged"); }

    // The printable character that stands for a byte: itself if printable, else one from U+0100 on.
    static const std::array<char32_t, 256>& signs() {
        static const auto made = [] {
            std::array<char32_t, 256> all{};
            char32_t hidden = 0x100;
            for (char32_t byte = 0; byte < 256; byte++) {
                const bool seen = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
                all[byte] = seen ? byte : hidden++;
            }
            return all;
        }();
        return made;
    }

    static std::string bytes_of(const std::string& token) {
        std::string bytes;
        for (const char32_t sign : from_utf8(token)) {
            const auto found = std::find(signs().begin(), signs().end(), sign);
            if (found == signs().end()) damaged();
            bytes += static_cast<char>(found - signs().begin());
        }
        return bytes;
    }

    static Kind kind(char32_t c) {
        if (is_space(c)) return space;
        if (c >= U'0' && c <= U'9') return digit;
        if ((c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z') || c == U'_') return letter;
        return c < 0xC0 || (c >= 0x2010 && c <= 0x206F) || (c >= 0x3000 && c <= 0x303F) ? mark : letter;
    }

    // Number of consecutive code points of a kind from `i` on, at most 64.
    static std::size_t run(const std::u32string& text, std::size_t i, Kind wanted) {
        std::size_t length = 0;
        while (length < 64 && i + length < text.size() && kind(text[i + length]) == wanted) length++;
        return length;
    }

    static std::size_t word_end(const std::u32string& text, std::size_t i) {
        const auto behind = [&](const char32_t* before, Kind wanted) {  // an optional code point of `before`, then a run
            const std::size_t start = i + (std::u32string_view(before).find(text[i]) != std::u32string_view::npos);
            const std::size_t length = run(text, start, wanted);
            return length > 0 ? start + length : 0;
        };
        if (const auto end = behind(U" '’", letter)) return end;
        if (const auto end = behind(U" ", digit)) return end;
        if (const auto end = behind(U" ", mark)) return end;
        const std::size_t length = run(text, i, space), end = i + length;
        const bool goes_on = end < text.size() && kind(text[end]) != space;
        return goes_on && length > 1 ? end - 1 : end;  // the last one may belong to the next word
    }

    // Apply merges until none is left: the first in the list, the leftmost among equal ones.
    std::vector<std::int64_t> encode_word(const std::string& word) const {
        std::vector<std::int64_t> ids;
        for (const char byte : word) ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
        for (;;) {
            std::size_t best = joined_.size(), at = 0;
            for (std::size_t i = 0; i + 1 < ids.size(); i++) {
                const auto found = ranks_.find({ids[i], ids[i + 1]});
                if (found != ranks_.end() && found->second < best) best = found->second, at = i;
            }
            if (best == joined_.size()) return ids;
            ids[at] = joined_[best];
            ids.erase(std::next(ids.begin(), at + 1));
        }
    }

    std::vector<std::string> bytes_;  // bytes of each token
    std::array<std::int64_t, 256> byte_ids_{};
    std::vector<std::int64_t> joined_;  // id of the token that each merge produces
    std::map<std::pair<std::int64_t, std::int64_t>, std::size_t> ranks_;
};
