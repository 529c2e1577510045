//! Sanitising of ONNX Runtime's error messages for callers.
//!
//! The messages contain paths of this machine. They begin with a location in the sources of ONNX Runtime:
//!
//! ```text
//! …Status Message: /src/core/element_wise_ops.h:583 void onnxruntime::BroadcastIterator::Init(ptrdiff_t) axis == 1 was false.
//! ```

const SOURCES: [&str; 5] = ["h", "hpp", "cc", "cpp", "cu"];

/// Removes source locations, replaces paths by file names, and adds a known remedy.
pub fn sanitize(message: &str) -> String {
    let mut sanitized = remove_source_locations(&shorten_paths(message));
    if let Some(locale) = missing_locale(message) {
        sanitized = format!(
            "the model needs the locale {locale}, which this machine does not have (Debian, Ubuntu: apt-get install locales, then \
             localedef -i {} -f UTF-8 {locale}; start_all.sh makes en_US.UTF-8 by itself). ONNX Runtime: {sanitized}",
            locale.split('.').next().unwrap_or(locale)
        );
    }
    sanitized
}

/// The locale that a `StringNormalizer` needs and the system does not have.
fn missing_locale(message: &str) -> Option<&str> {
    let (_, after) = message.split_once("Failed to construct locale with name:")?;
    after.split([':', ' ', '\n']).find(|word| !word.is_empty())
}

fn shorten_paths(message: &str) -> String {
    let ends_token = |c: char| c.is_whitespace() || "\"'`()[]<>,;=:".contains(c);
    let shorten = |mut text: String, piece: &str| {
        let token = piece.trim_end_matches(ends_token);
        let is_path = ["/", "./", "../"].iter().any(|start| token.starts_with(start));
        let name = if is_path { token.rsplit('/').next().unwrap_or_default() } else { token };
        text.push_str(name);
        text.push_str(&piece[token.len()..]);
        text
    };
    message.split_inclusive(ends_token).fold(String::new(), shorten)
}

/// Removes each `file.cc:129`, together with the function signature that follows.
fn remove_source_locations(message: &str) -> String {
    let mut result = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(start) = rest.find(|c: char| !c.is_whitespace()) {
        let (space, from_word) = rest.split_at(start);
        let (word, after) = from_word.split_at(from_word.find(char::is_whitespace).unwrap_or(from_word.len()));
        result.push_str(space);
        // A word may precede the file without a space: "failed:file.cc:129".
        let start_of_file = word.rmatch_indices(':').nth(1).map_or(0, |(colon, _)| colon + 1);
        if is_source_location(&word[start_of_file..]) {
            result.push_str(&word[..start_of_file]);
            rest = after_signature(after).trim_start();
        } else {
            result.push_str(word);
            rest = after;
        }
    }
    result.trim_end().to_owned()
}

/// Whether the word is a source location such as `file.cc:129`.
fn is_source_location(word: &str) -> bool {
    let Some((file, line)) = word.rsplit_once(':') else { return false };
    let is_source = file.rsplit_once('.').is_some_and(|(_, extension)| SOURCES.contains(&extension));
    is_source && !line.is_empty() && line.bytes().all(|digit| digit.is_ascii_digit())
}

/// What follows a signature such as `void onnxruntime::f(int, T) const [with T = float]`. All of `text` if it does not begin with
/// a signature, which has a scope before its parameters.
fn after_signature(text: &str) -> &str {
    let Some(open) = text.find('(').filter(|&open| text[..open].contains("::")) else { return text };
    let Some(mut rest) = after_brackets(&text[open..], '(', ')') else { return text };
    rest = rest.strip_prefix(" const").unwrap_or(rest);
    if rest.starts_with(" [with ") {
        rest = after_brackets(rest.trim_start(), '[', ']').unwrap_or(rest);
    }
    rest
}

/// What follows the bracket that closes the one at the start of `text`.
fn after_brackets(text: &str, open: char, close: char) -> Option<&str> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some(&text[at + close.len_utf8()..]);
            }
        }
    }
    None
}

/// The message of an error, sanitised.
#[allow(clippy::needless_pass_by_value, reason = "the signature of map_err")]
pub fn error_text<R>(error: ort::Error<R>) -> String {
    sanitize(error.message().trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_locale_is_named_with_the_remedy() {
        let message = "Exception during initialization: /src/string_normalizer.cc:91 Locale::Locale(const std::string&) Failed to \
                    construct locale with name:en_US.UTF-8:locale::facet::_S_create_c_locale name not valid:Please, install \
                    necessary language-pack-XX and configure locales";
        let sanitized = sanitize(message);
        assert!(
            sanitized.starts_with("the model needs the locale en_US.UTF-8, which this machine does not have"),
            "{sanitized}"
        );
        assert!(sanitized.contains("localedef -i en_US -f UTF-8 en_US.UTF-8;"), "{sanitized}");
    }

    #[test]
    fn paths_and_source_locations_are_removed() {
        for (message, expected) in [
            (
                "Load model from /srv/models/x/model.onnx failed:/src/core/graph.cc:12 Bad (and/or odd) './a/b'",
                "Load model from model.onnx failed:Bad (and/or odd) 'b'",
            ),
            (
                "Non-zero status code returned while running Add node. Name:'' Status Message: \
                 /src/element_wise_ops.h:583 void onnxruntime::BroadcastIterator::Init(ptrdiff_t, ptrdiff_t) \
                 axis == 1 || axis == largest was false. Attempting to broadcast an axis (2) by 3",
                "Non-zero status code returned while running Add node. Name:'' Status Message: \
                 axis == 1 || axis == largest was false. Attempting to broadcast an axis (2) by 3",
            ),
            (
                "/src/cuda_call.cc:129 std::conditional_t<T, void, onnxruntime::common::Status> \
                 onnxruntime::CudaCall(E, const char*, int) [with E = cudaError; bool T = true] CUDA failure 999: \
                 unknown error ; GPU=0",
                "CUDA failure 999: unknown error ; GPU=0",
            ),
            ("a.cc:7 onnxruntime::X::f(int) const x was false", "x was false"),
            ("a.cc:7 Expected (1) element", "Expected (1) element"),
            ("a.cc:7 ns::f(int", "ns::f(int"),
            ("input x: 12:30 is no moment", "input x: 12:30 is no moment"),
            ("", ""),
        ] {
            assert_eq!(sanitize(message), expected);
        }
    }
}
