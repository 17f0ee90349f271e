// A small JSON reader for the metadata of a model file, and UTF-8 to code points and back.

#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

// An error in a file, a prompt or an option, in one line for the user.
struct HostError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline std::string to_utf8(char32_t c) {
    std::string bytes;
    auto add = [&](char32_t byte) { bytes += static_cast<char>(byte); };
    if (c < 0x80) {
        add(c);
    } else if (c < 0x800) {
        add(0xC0 | c >> 6), add(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        add(0xE0 | c >> 12), add(0x80 | (c >> 6 & 0x3F)), add(0x80 | (c & 0x3F));
    } else {
        add(0xF0 | c >> 18), add(0x80 | (c >> 12 & 0x3F)), add(0x80 | (c >> 6 & 0x3F)), add(0x80 | (c & 0x3F));
    }
    return bytes;
}

inline std::u32string from_utf8(std::string_view bytes) {
    std::u32string text;
    for (std::size_t i = 0; i < bytes.size();) {
        const auto first = static_cast<unsigned char>(bytes[i]);
        const int length = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
        if (length == 0 || i + length > bytes.size()) throw HostError("the text is not valid UTF-8");
        char32_t c = length == 1 ? first : first & (0x7F >> length);
        for (int k = 1; k < length; k++) c = c << 6 | (static_cast<unsigned char>(bytes[i + k]) & 0x3F);
        // reject overlong forms, wrong continuation bytes and surrogates
        const bool good = c <= 0x10FFFF && (c < 0xD800 || c > 0xDFFF) && to_utf8(c) == bytes.substr(i, length);
        if (!good) throw HostError("the text is not valid UTF-8");
        text += c;
        i += length;
    }
    return text;
}

struct Json {
    enum Kind { null, truth, number, text, list, object } kind = null;
    bool yes = false;
    double value = 0;
    std::string string;
    std::vector<Json> items;         // items of a list or an object
    std::vector<std::string> names;  // names of an object's items

    // Return the value of an object under a name; a missing value or one of another kind is an error.
    const Json& get(std::string_view name, Kind wanted) const {
        for (std::size_t i = 0; i < names.size(); i++) {
            if (names[i] == name && items[i].kind == wanted) return items[i];
        }
        throw HostError("the model's metadata has no proper " + std::string(name));
    }
    bool has(std::string_view name) const {
        for (const auto& other : names) {
            if (other == name) return true;
        }
        return false;
    }
};

class JsonReader {
public:
    static Json read(const std::string& text) {
        JsonReader reader{text.c_str()};
        Json json = reader.value(0);
        reader.space();
        if (*reader.at_ != '\0') reader.fail();
        return json;
    }

private:
    explicit JsonReader(const char* at) : at_(at) {}

    [[noreturn]] static void fail() { throw HostError("the model's metadata is no JSON that can be read"); }
    void space() { at_ += std::strspn(at_, " \t\r\n"); }
    bool take(char c) {
        space();
        return *at_ == c && ++at_;
    }
    void need(bool found) {
        if (!found) fail();
    }
    bool take_word(const char* word) {
        const std::size_t length = std::strlen(word);
        return std::strncmp(at_, word, length) == 0 && (at_ += length);
    }

    Json value(int depth) {
        need(depth < 100);  // a damaged file must not exhaust the stack
        Json json;
        space();
        if (*at_ == '"') {
            json.kind = Json::text;
            json.string = string();
        } else if (take('[')) {
            json.kind = Json::list;
            if (take(']')) return json;
            do json.items.push_back(value(depth + 1));
            while (take(','));
            need(take(']'));
        } else if (take('{')) {
            json.kind = Json::object;
            if (take('}')) return json;
            do {
                space();
                json.names.push_back(string());
                need(take(':'));
                json.items.push_back(value(depth + 1));
            } while (take(','));
            need(take('}'));
        } else if (take_word("true")) {
            json.kind = Json::truth;
            json.yes = true;
        } else if (take_word("false")) {
            json.kind = Json::truth;
        } else if (!take_word("null")) {
            char* end = nullptr;
            json.kind = Json::number;
            json.value = std::strtod(at_, &end);
            need(end != at_);
            at_ = end;
        }
        return json;
    }

    char32_t hex() {  // four hexadecimal digits of \uXXXX
        need(std::strspn(at_, "0123456789abcdefABCDEF") >= 4);
        const std::string digits(at_, 4);
        at_ += 4;
        return static_cast<char32_t>(std::stoul(digits, nullptr, 16));
    }

    std::string string() {
        need(*at_++ == '"');
        std::string text;
        while (*at_ != '"') {
            need(*at_ != '\0');
            if (*at_ != '\\') {
                text += *at_++;
                continue;
            }
            const char code = *++at_;
            need(code != '\0');
            ++at_;
            if (code == 'u') {
                char32_t c = hex();
                if (c >= 0xD800 && c < 0xDC00 && take_word("\\u")) c = 0x10000 + ((c - 0xD800) << 10) + (hex() - 0xDC00);
                text += to_utf8(c);
            } else {
                static const std::string codes = "bfnrt\"\\/", meant = "\b\f\n\r\t\"\\/";
                need(codes.find(code) != std::string::npos);
                text += meant[codes.find(code)];
            }
        }
        ++at_;
        return text;
    }

    const char* at_;
};
