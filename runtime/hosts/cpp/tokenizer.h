// Text to ids and back, by Unicode code points, words, white space or byte pairs, by the rules of docs/formats.md.

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
#include "normalization.h"

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
          unknown_(description.get("unknown", Json::text).string),
          normalize_(form(description)) {
        for (const Json& token : description.get("vocabulary", Json::list).items) {
            if (token.kind != Json::text) throw HostError("the model's vocabulary has an entry that is no text");
            ids_.emplace(token.string, vocabulary_.size());
            vocabulary_.push_back(token.string);
        }
        if (level_ == "bpe") pairs_.emplace(vocabulary_, description.get("merges", Json::list));
        if (unknown_ == "replace" && id("<unk>") < 0) throw HostError("the model's vocabulary has no <unk>");
        keeps_lines_ = level_ == "whitespace" && id("<eos>") >= 0 && id("<bos>") < 0;
    }

    // Id of the token that ends a text; -1: none does.
    std::int64_t end_id() const { return keeps_lines_ ? -1 : id("<eos>"); }
    std::size_t size() const { return vocabulary_.size(); }
    std::int64_t id(const std::string& token) const {  // -1: not in the vocabulary
        const auto found = ids_.find(token);
        return found == ids_.end() ? -1 : found->second;
    }

    // Ids of a text.
    std::vector<std::int64_t> encode(const std::string& text) const {
        const std::u32string prepared = prepare(from_utf8(text));
        return pairs_ ? pairs_->encode(prepared) : look_up(split(prepared));
    }

    // Ids of a prompt, at least one; they begin with <bos> if the vocabulary has it.
    std::vector<std::int64_t> encode_prompt(const std::string& prompt) const {
        std::vector<std::int64_t> ids = encode(prompt);
        if (id("<bos>") >= 0) ids.insert(ids.begin(), id("<bos>"));
        if (ids.empty()) throw HostError("the prompt has no token to start from, and this model has no <bos>");
        return ids;
    }

    // Reset before the first id of another text.
    void restart() { glue_ = true; }

    // Return the text that the next id adds, in whole characters.
    std::string decode_next(std::int64_t id) {
        if (pairs_) return characters_.feed(pairs_->bytes(id));
        const std::string& token = vocabulary_.at(id);
        if (keeps_lines_ && token == "<eos>") return glue_ = true, "\n";
        if (token == "<bos>" || token == "<eos>") return "";
        if (level_ == "char") return token;
        const bool mark = level_ == "word" && token.size() == 1;
        const bool space = !glue_ && !(mark && std::strchr(",.;:!?)]}", token[0]));
        glue_ = mark && std::strchr("([{", token[0]);
        return (space ? " " : "") + token;
    }
    // Return the white space between a prompt and the text written after it.
    std::string separator(const std::string& prompt, const std::string& text) const {
        if (prompt.empty() || text.empty()) return "";
        if (level_ == "whitespace") return is_space(from_utf8(prompt).back()) || text.front() == '\n' ? "" : " ";
        return level_ == "word" ? " " : "";
    }
    // Return the held-back rest at the end of a text.
    std::string decode_rest() { return characters_.flush(); }

private:
    static const std::string& level(const std::string& name) {
        if (name == "char" || name == "word" || name == "whitespace" || name == "bpe") return name;
        throw HostError("tokens of level " + name + " are unknown to this program");
    }
    static bool flag(const Json& description, const char* name) {
        return description.has(name) && description.get(name, Json::truth).yes;
    }

    static std::string form(const Json& description) {
        if (!description.has("normalize")) return "none";
        const std::string& name = description.get("normalize", Json::text).string;
        if (name == "none" || name == "NFC" || name == "NFD" || name == "NFKC" || name == "NFKD") return name;
        throw HostError("text of form " + name + " is unknown to this program");
    }

    // Normalise, lower-case, and normalise the lower case.
    std::u32string prepare(const std::u32string& given) const {
        const std::u32string text = normalize_ == "none" ? given : normalized(given, normalize_);
        if (!lowercase_) return text;
        return normalize_ == "none" ? to_lower(text) : normalized(to_lower(text), normalize_);
    }

    std::vector<std::string> split(const std::u32string& text) const {
        if (level_ == "word") return split_words(text);
        if (level_ == "whitespace") return split_lines(text);
        std::vector<std::string> tokens;
        for (const char32_t c : text) tokens.push_back(to_utf8(c));
        return tokens;
    }

    // Split by white space; a line end is <eos> where that does not end a text.
    std::vector<std::string> split_lines(const std::u32string& text) const {
        std::vector<std::string> tokens;
        bool open = false;  // whether a word goes on
        for (const char32_t c : text) {
            if (is_space(c)) {
                open = false;
                if (c == U'\n' && keeps_lines_) tokens.push_back("<eos>");
                continue;
            }
            if (!open) tokens.emplace_back();
            open = true;
            tokens.back() += to_utf8(c);
        }
        return tokens;
    }

    // Split into words and, if they are kept, punctuation marks.
    std::vector<std::string> split_words(const std::u32string& text) const {
        const bool continued = normalize_ != "none";  // combining marks and joiners continue words and marks
        const auto word_at = [&](std::size_t i) { return i < text.size() && is_word(text[i]); };
        const auto more_at = [&](std::size_t i) { return continued && i < text.size() && is_continuation(text[i]); };
        const auto apostrophe_at = [&](std::size_t i) {  // between letters
            return i < text.size() && (text[i] == U'\'' || text[i] == U'’') && word_at(i + 1);
        };
        std::vector<std::string> tokens;
        for (std::size_t i = 0; i < text.size();) {
            std::string token = to_utf8(text[i]);
            const bool word = word_at(i), mark = !word && !is_space(text[i]);
            i++;
            while (word ? word_at(i) || more_at(i) || apostrophe_at(i) : mark && more_at(i)) token += to_utf8(text[i++]);
            if (word || (mark && punctuation_)) tokens.push_back(token);
        }
        return tokens;
    }

    std::vector<std::int64_t> look_up(const std::vector<std::string>& tokens) const {
        std::vector<std::int64_t> ids;
        for (const std::string& token : tokens) {
            const std::int64_t found = id(token);
            if (found < 0 && unknown_ == "error") {
                const std::string what = level_ == "char" ? "character" : "word";
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
    std::string unknown_, normalize_;
    bool keeps_lines_ = false;  // <eos> is a line end, and ends no text
    std::vector<std::string> vocabulary_;
    std::unordered_map<std::string, std::int64_t> ids_;
    bool glue_ = true;  // whether the next word follows without a space
    std::optional<BytePairs> pairs_;
    Utf8Stream characters_;  // state of a byte-pair text
};
