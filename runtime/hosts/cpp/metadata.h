// What the host needs of the metadata of a model file, of format 1 or 2 (docs/formats.md).

#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "json.h"
#include "tokenizer.h"

struct ModelInfo {
    Tokenizer tokenizer;
    std::vector<std::int64_t> state_shape;  // (S, L, B, H) with B = 1
};

// Check that a part of the metadata of format 2 has no unknown key: a file with one was written by a later release, in which the
// known keys may mean something else.
inline void check_keys(const Json& part, const char* name, std::initializer_list<const char*> known, const std::string& path) {
    for (const std::string& key : part.names) {
        if (std::find(known.begin(), known.end(), key) != known.end()) continue;
        throw HostError(path + ": its " + name + " has the unknown key \"" + key + "\"");
    }
}

inline void check_spec(const Json& spec, const std::string& path) {
    check_keys(spec, "spec", {"inputs", "core", "head"}, path);
    for (const Json& input : spec.get("inputs", Json::list).items) {
        check_keys(input, "input", {"kind", "name", "size", "embedding_size"}, path);
    }
    check_keys(spec.get("core", Json::object), "core",
               {"cell", "hidden_size", "num_layers", "bidirectional", "dropout"}, path);
    check_keys(spec.get("head", Json::object), "head", {"kind", "vocab_size", "tie_weights"}, path);
}

// Format 1 has config and tokenizer; format 2 has the spec of any model, and the preprocessing of its inputs.
inline Tokenizer read_tokenizer(const Json& metadata, const std::string& version, const std::string& path) {
    const auto part = [&](const char* key) { return JsonReader::read(metadata.get(key, Json::text).string); };
    Json described, sizes;
    if (version == "1") {
        described = part("unrolled.tokenizer");
        sizes = part("unrolled.config");
    } else {
        const Json preprocessing = part("unrolled.preprocessing"), spec = part("unrolled.spec");
        const Json& rule = preprocessing.get("tokens", Json::object);
        described = rule.get("tokenizer", Json::object);
        sizes = spec.get("head", Json::object);
        check_spec(spec, path);
        check_keys(preprocessing, "preprocessing", {"tokens"}, path);
        check_keys(rule, "rule", {"tokenizer"}, path);
        check_keys(described, "tokenizer",
                   {"level", "vocabulary", "unknown", "lowercase", "normalize", "punctuation", "merges"}, path);
    }
    Tokenizer tokenizer(described);
    const double V = sizes.get("vocab_size", Json::number).value;
    if (static_cast<double>(tokenizer.size()) != V) throw HostError(path + ": its vocabulary is not of the model's size");
    return tokenizer;
}

// Read the JSON object of all metadata; `path` names the file in errors.
inline ModelInfo read_metadata(const std::string& json, const std::string& path) {
    const Json metadata = JsonReader::read(json);
    const auto text = [&](const char* key) { return metadata.get(key, Json::text).string; };
    const std::string version = text("unrolled.format_version");
    if (version != "1" && version != "2") {
        throw HostError(path + ": export format " + version + "; this program reads 1 and 2");
    }
    if (version == "2" && text("unrolled.task") != "next_token") {
        throw HostError(path + ": its task is " + text("unrolled.task") + "; this program writes texts, the task next_token");
    }
    if (metadata.has("unrolled.sampling") && text("unrolled.sampling") != "1") {
        throw HostError(path + ": sampling rules " + text("unrolled.sampling") + "; this program follows 1");
    }
    std::vector<std::int64_t> shape;
    const Json state = JsonReader::read(text("unrolled.state"));
    for (const Json& size : state.get("shape", Json::list).items) {
        shape.push_back(size.kind == Json::number ? static_cast<std::int64_t>(size.value) : 1);
    }
    return {read_tokenizer(metadata, version, path), shape};
}
