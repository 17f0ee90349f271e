// Encode and decode by the tokenizer of the C++ host, without libtorch: reads JSON, writes JSON. With the argument "metadata" it
// reads the metadata of a model file, and prints the state's shape and the size of the vocabulary, or an error.
//
// Input: a list of {"description", "texts": texts to encode, "ids": lists of ids to decode}.
// Output: a list of {"ids": for each text its ids or null, "texts": decoded texts as bytes, "end": id of the token that ends a text}.

#include <iostream>
#include <iterator>

#include "metadata.h"

template <typename Items, typename Show>
void print_list(const Items& items, Show show) {
    std::cout << '[';
    bool first = true;
    for (const auto& item : items) {
        if (!first) std::cout << ',';
        first = false;
        show(item);
    }
    std::cout << ']';
}

void print_ids(const Tokenizer& tokenizer, const std::string& text) {
    try {
        print_list(tokenizer.encode(text), [](std::int64_t id) { std::cout << id; });
    } catch (const HostError&) {
        std::cout << "null";
    }
}

void print_text(Tokenizer& tokenizer, const Json& ids) {
    tokenizer.restart();
    std::string text;
    for (const Json& id : ids.items) text += tokenizer.decode_next(static_cast<std::int64_t>(id.value));
    text += tokenizer.decode_rest();
    print_list(text, [](char byte) { std::cout << static_cast<int>(static_cast<unsigned char>(byte)); });
}

int print_metadata(const std::string& json) {
    try {
        const ModelInfo info = read_metadata(json, "model.pt");
        for (const std::int64_t size : info.state_shape) std::cout << size << ' ';
        std::cout << info.tokenizer.size();
    } catch (const HostError& error) {
        std::cout << error.what();
    }
    return 0;
}

int main(int argc, char**) {
    const std::string given{std::istreambuf_iterator<char>(std::cin), {}};
    if (argc > 1) return print_metadata(given);
    const Json cases = JsonReader::read(given);
    print_list(cases.items, [](const Json& one) {
        Tokenizer tokenizer(one.get("description", Json::object));
        std::cout << "{\"ids\":";
        print_list(one.get("texts", Json::list).items, [&](const Json& text) { print_ids(tokenizer, text.string); });
        std::cout << ",\"texts\":";
        print_list(one.get("ids", Json::list).items, [&](const Json& ids) { print_text(tokenizer, ids); });
        std::cout << ",\"end\":" << tokenizer.end_id() << '}';
    });
}
