// Write text with a model file of unrolled, in C++: generate model.pt --prompt "Once upon" [--seed 7] …
// The scripted model reads the prompt, steps and draws; this program supplies tokens and uniforms, and prints.

#include <torch/script.h>

#include <charconv>
#include <fstream>
#include <iostream>
#include <limits>
#include <sstream>

#include "metadata.h"
#include "philox.h"

constexpr const char* HELP =
    "Usage: generate model.pt [--prompt TEXT] [--tokens N] [--greedy] [--temperature T] [--top-k K] [--top-p P]\n"
    "                [--seed S] [--ids]\n"
    "In a prompt \\n is a line end, \\t a tab and \\\\ a backslash.\n"
    "Writes text behind each prompt, one after the other, with a model that unrolled exported as TorchScript.\n";
constexpr std::int64_t CHUNK = 32;  // tokens per call, so that text is shown while it grows
constexpr auto MOST = std::numeric_limits<std::int64_t>::max();

struct Options {
    std::string path;
    std::vector<std::string> prompts;
    std::int64_t tokens = 200, top_k = 0;
    double temperature = 1, top_p = 1;
    std::uint64_t seed = 0;
    bool greedy = false, ids = false, help = false;
};

// Parse a number from `least` to `most`; anything else, also a fraction for an integer, is an error.
template <typename Number>
Number parse_number(const std::string& name, const std::string& text, Number least, Number most) {
    Number value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool parsed = error == std::errc() && end == text.data() + text.size();
    if (parsed && value >= least && value <= most) return value;
    std::ostringstream needs;
    needs << (std::is_integral_v<Number> ? "a whole number" : "a number") << " from " << least << " to " << most;
    throw HostError(name + ": got \"" + text + "\", needs " + needs.str());
}

// 0 is greedy; dividing logits by less than 1e-6 would overflow.
double parse_temperature(const std::string& name, const std::string& text) {
    double value = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool parsed = error == std::errc() && end == text.data() + text.size();
    if (parsed && (value == 0 || (value >= 1e-6 && value <= 1e300))) return value;
    throw HostError(name + ": got \"" + text + "\", needs 0, which is greedy, or a number from 1e-06");
}

// Replace the escapes of a prompt: \n line end, \t tab, \\ backslash; any other backslash is literal.
std::string unescape(const std::string& text) {
    std::string plain;
    for (std::size_t i = 0; i < text.size(); i++) {
        const char next = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : '\0';
        const bool escape = next == 'n' || next == 't' || next == '\\';
        plain += !escape ? text[i] : next == 'n' ? '\n' : next == 't' ? '\t' : '\\';
        i += escape;
    }
    return plain;
}

Options parse_options(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; i++) {
        const std::string name = argv[i];
        const auto value = [&]() -> std::string {
            if (i + 1 == argc) throw HostError(name + ": needs a value");
            return argv[++i];
        };
        if (name == "--help") options.help = true;
        else if (name == "--greedy") options.greedy = true;
        else if (name == "--ids") options.ids = true;
        else if (name == "--prompt") options.prompts.push_back(unescape(value()));
        else if (name == "--tokens") options.tokens = parse_number<std::int64_t>(name, value(), 1, MOST);
        else if (name == "--top-k") options.top_k = parse_number<std::int64_t>(name, value(), 0, MOST);
        else if (name == "--top-p") options.top_p = parse_number<double>(name, value(), 0, 1);
        else if (name == "--temperature") options.temperature = parse_temperature(name, value());
        else if (name == "--seed") options.seed = parse_number<std::uint64_t>(name, value(), 0, ~std::uint64_t{0});
        else if (name.starts_with("--")) throw HostError(name + ": no such option (--help says what there is)");
        else if (options.path.empty()) options.path = name;
        else throw HostError("needs one model file, got also " + name);
    }
    options.greedy = options.greedy || options.temperature == 0;
    if (options.path.empty() && !options.help) throw HostError("needs a model file (--help says more)");
    return options;
}

struct Model {
    torch::jit::Module module;
    ModelInfo info;
};

Model open_model(const std::string& path) {
    if (!std::ifstream(path).good()) throw HostError(path + ": there is no such file");
    torch::jit::ExtraFilesMap extra{{"unrolled.json", ""}};
    torch::jit::Module module;
    try {
        module = torch::jit::load(path, torch::kCPU, extra);
    } catch (const std::exception&) {
        throw HostError(path + ": not a TorchScript file, or a damaged one");
    }
    if (extra["unrolled.json"].empty()) throw HostError(path + ": not one of unrolled's TorchScript files");
    return {module, read_metadata(extra["unrolled.json"], path)};
}

// Generate after the prompt of index `row`; `show` is called with each token.
template <typename Show>
void generate(Model& model, const std::vector<std::int64_t>& prompt, std::uint64_t row, const Options& options,
              Show show) {
    const c10::InferenceMode no_gradients;
    const std::int64_t end = model.info.tokenizer.end_id();
    auto tokens = torch::tensor(prompt, torch::kInt64).unsqueeze(1);  // (T, B = 1)
    auto state = torch::zeros(model.info.state_shape);
    for (std::int64_t step = 0; step < options.tokens; step += CHUNK) {
        const std::int64_t N = std::min(CHUNK, options.tokens - step);
        auto uniforms = torch::empty({N, 1}, torch::kFloat64);
        for (std::int64_t n = 0; n < N; n++) uniforms[n][0] = uniform(options.seed, row, step + n);
        const auto lengths = torch::full({1}, tokens.size(0), torch::kInt64);
        const auto result = model.module.get_method("generate")(
            {tokens, lengths, state, uniforms, options.greedy ? 1.0 : options.temperature,
             options.greedy ? std::int64_t{1} : options.top_k, options.greedy ? 1.0 : options.top_p, end});
        const auto written = result.toTupleRef().elements()[0].toTensor();
        state = result.toTupleRef().elements()[1].toTensor();
        if (!torch::isfinite(state).all().item<bool>()) throw HostError("the model's state is not finite; it is damaged");
        for (std::int64_t n = 0; n < written.size(0); n++) {
            const auto token = written[n][0].item<std::int64_t>();
            show(token);
            if (token == end) return;
        }
        tokens = written.slice(0, -1);  // drawn, but not read yet
    }
}

// Print prompt `row` and its text, or, for programs and tests, their ids in two lines.
void write(Model& model, const std::vector<std::int64_t>& ids, std::size_t row, const Options& options) {
    const std::string& prompt = options.prompts[row];
    if (options.ids) {
        for (const auto id : ids) std::cout << id << ' ';
        std::cout << '\n';
        generate(model, ids, row, options, [](std::int64_t id) { std::cout << id << ' '; });
    } else {
        std::cout << (row > 0 ? std::string(40, '-') + "\n" : "") << prompt;
        model.info.tokenizer.restart();
        std::string before = prompt;  // empty once text follows
        generate(model, ids, row, options, [&](std::int64_t id) {
            const std::string text = model.info.tokenizer.decode_next(id);
            std::cout << model.info.tokenizer.separator(before, text) << text << std::flush;
            if (!text.empty()) before.clear();
        });
        std::cout << model.info.tokenizer.decode_rest();
    }
    std::cout << std::endl;
}

int run(int argc, char** argv) {
    Options options = parse_options(argc, argv);
    if (options.help) return std::cout << HELP, 0;
    if (options.prompts.empty()) options.prompts.emplace_back();  // an empty prompt needs <bos>
    Model model = open_model(options.path);
    std::vector<std::vector<std::int64_t>> encoded;  // encode all prompts before anything is printed
    for (const auto& prompt : options.prompts) encoded.push_back(model.info.tokenizer.encode_prompt(prompt));
    for (std::size_t row = 0; row < encoded.size(); row++) write(model, encoded[row], row, options);
    return 0;
}

int main(int argc, char** argv) {
    std::string reason;
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {
        reason = error.what();
    }
    std::cerr << "error: " << reason.substr(0, reason.find('\n')) << std::endl;
    return 2;
}
