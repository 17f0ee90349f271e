// Text to ids and back, by Unicode code points, words or byte pairs.

#pragma once

#include <clocale>
#include <cstdint>
#include <cwctype>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "bpe.h"
#include "json.h"
#include "letters.h"

// Lower case independent of the neighbouring code points. The C library converts single code points if it has a UTF-8
// locale; only İ becomes two of them.
inline std::u32string to_lower(const std::u32string& text) {
    static const bool has_unicode = std::setlocale(LC_CTYPE, "C.UTF-8") || std::setlocale(LC_CTYPE, "en_US.UTF-8");
    std::u32string lower;
    for (const char32_t c : text) {
        if (c >= 0x80 && !has_unicode) throw HostError("this system has no UTF-8 locale to lower-case the prompt with");
        if (c == U'İ') {
            lower += U"i\u0307";
        } else {
            lower += static_cast<char32_t>(std::towlower(static_cast<std::wint_t>(c)));
        }
    }
    return lower;
}

class Tokenizer {
public:
    // Construct from the JSON under unrolled.tokenizer.
    explicit Tokenizer(const Json& description)
        : level_(level(description.get("level", Json::text).string)),
          lowercase_(flag(description, "lowercase")),
          punctuation_(flag(description, "punctuation")),
          unknown_(description.get("unknown", Json::text).string) {
        for (const Json& token : description.get("vocabulary", Json::list).items) {
            if (token.kind != Json::text) throw HostError("the model's vocabulary holds what is no text");
            ids_.emplace(token.string, vocabulary_.size());
            vocabulary_.push_back(token.string);
        }
        if (level_ == "bpe") pairs_.emplace(vocabulary_, description.get("merges", Json::list));
        if (unknown_ == "replace" && id("<unk>") < 0) throw HostError("the model's vocabulary has no <unk>");
    }

    bool word_level() const { return level_ == "word"; }
    std::size_t size() const { return vocabulary_.size(); }
    std::int64_t id(const std::string& token) const {  // -1: not in the vocabulary
        const auto found = ids_.find(token);
        return found == ids_.end() ? -1 : found->second;
    }

    // Ids of a prompt, at least one; they begin with <bos> if the vocabulary has it.
    std::vector<std::int64_t> encode_prompt(const std::string& prompt) const {
        std::vector<std::int64_t> ids;
        if (id("<bos>") >= 0) ids.push_back(id("<bos>"));
        const std::u32string given = from_utf8(prompt);
        const std::u32string text = lowercase_ ? to_lower(given) : given;
        for (const std::int64_t token : pairs_ ? pairs_->encode(text) : look_up(split(text))) ids.push_back(token);
        if (ids.empty()) throw HostError("the prompt has no token to start from, and this model has no <bos>");
        return ids;
    }

    // Reset before the first id of another text.
    void restart() { glue_ = true; }

    // Return the text that the next id adds, in whole characters.
    std::string decode_next(std::int64_t id) {
        if (pairs_) return characters_.feed(pairs_->bytes(id));
        const std::string& token = vocabulary_.at(id);
        if (token == "<bos>" || token == "<eos>") return "";
        const bool one = token.size() == 1;
        const bool space = word_level() && !glue_ && !(one && std::strchr(",.;:!?)]}", token[0]));
        glue_ = one && std::strchr("([{", token[0]);
        return (space ? " " : "") + token;
    }
    // Return the held-back rest at the end of a text.
    std::string decode_rest() { return characters_.flush(); }

private:
    static const std::string& level(const std::string& name) {
        if (name == "char" || name == "word" || name == "bpe") return name;
        throw HostError("tokens of level " + name + " are unknown to this program");
    }
    static bool flag(const Json& description, const char* name) {
        return description.has(name) && description.get(name, Json::truth).yes;
    }

    std::vector<std::string> split(const std::u32string& text) const {
        std::vector<std::string> tokens;
        if (!word_level()) {
            for (const char32_t c : text) tokens.push_back(to_utf8(c));
            return tokens;
        }
        const auto word_at = [&](std::size_t i) { return i < text.size() && is_word(text[i]); };
        for (std::size_t i = 0; i < text.size();) {
            std::string token;
            if (!word_at(i)) {  // punctuation or a space
                if (punctuation_ && !is_space(text[i])) tokens.push_back(to_utf8(text[i]));
                i++;
                continue;
            }
            // letters, and apostrophes between letters
            while (word_at(i) || (i < text.size() && (text[i] == U'\'' || text[i] == U'’') && word_at(i + 1))) {
                token += to_utf8(text[i++]);
            }
            tokens.push_back(token);
        }
        return tokens;
    }

    std::vector<std::int64_t> look_up(const std::vector<std::string>& tokens) const {
        std::vector<std::int64_t> ids;
        for (const std::string& token : tokens) {
            const std::int64_t found = id(token);
            if (found < 0 && unknown_ == "error") {
                const std::string what = word_level() ? "word" : "character";
                throw HostError("the vocabulary has no " + what + " \"" + token + "\"; leave it out");
            }
            if (found >= 0) {
                ids.push_back(found);
            } else if (unknown_ == "replace") {
                ids.push_back(id("<unk>"));
            }
        }
        return ids;
    }

    std::string level_;
    bool lowercase_, punctuation_;
    std::string unknown_;
    std::vector<std::string> vocabulary_;
    std::unordered_map<std::string, std::int64_t> ids_;
    bool glue_ = true;  // whether the next word follows without a space
    std::optional<BytePairs> pairs_;
    Utf8Stream characters_;  // state of a byte-pair text
};
