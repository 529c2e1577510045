//! ONNX Runtime's messages, made fit for callers.
//!
//! They name files of this machine, and begin with the place in ONNX Runtime's sources where something was found wrong:
//!
//! ```text
//! …Status Message: /src/core/element_wise_ops.h:583 void onnxruntime::BroadcastIterator::Init(ptrdiff_t) axis == 1 was false.
//! ```

const SOURCES: [&str; 5] = ["h", "hpp", "cc", "cpp", "cu"];

/// The message without places in sources, and with the names of files in place of their paths. Where a remedy is known, it
/// follows.
pub fn for_callers(message: &str) -> String {
    let mut told = without_places(&without_paths(message));
    if let Some(locale) = missing_locale(message) {
        told = format!(
            "the model needs the locale {locale}, which this machine does not have (Debian, Ubuntu: apt-get install locales, then \
             localedef -i {} -f UTF-8 {locale}; start_all.sh makes en_US.UTF-8 by itself). ONNX Runtime: {told}",
            locale.split('.').next().unwrap_or(locale)
        );
    }
    told
}

/// The locale that a `StringNormalizer` asks for and the system lacks.
fn missing_locale(message: &str) -> Option<&str> {
    let (_, after) = message.split_once("Failed to construct locale with name:")?;
    after.split([':', ' ', '\n']).find(|word| !word.is_empty())
}

fn without_paths(message: &str) -> String {
    let ends_token = |c: char| c.is_whitespace() || "\"'`()[]<>,;=:".contains(c);
    let tell = |mut told: String, piece: &str| {
        let token = piece.trim_end_matches(ends_token);
        let is_path = ["/", "./", "../"].iter().any(|start| token.starts_with(start));
        let name = if is_path { token.rsplit('/').next().unwrap_or_default() } else { token };
        told.push_str(name);
        told.push_str(&piece[token.len()..]);
        told
    };
    message.split_inclusive(ends_token).fold(String::new(), tell)
}

/// Leaves out each `file.cc:129`, and the function's signature behind it.
fn without_places(message: &str) -> String {
    let mut told = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(start) = rest.find(|c: char| !c.is_whitespace()) {
        let (space, from_word) = rest.split_at(start);
        let (word, after) = from_word.split_at(from_word.find(char::is_whitespace).unwrap_or(from_word.len()));
        told.push_str(space);
        // Words may stand before the file without a space: "failed:file.cc:129".
        let place = word.rmatch_indices(':').nth(1).map_or(0, |(colon, _)| colon + 1);
        if is_place(&word[place..]) {
            told.push_str(&word[..place]);
            rest = after_signature(after).trim_start();
        } else {
            told.push_str(word);
            rest = after;
        }
    }
    told.trim_end().to_owned()
}

/// Whether it is `file.cc:129`.
fn is_place(word: &str) -> bool {
    let Some((file, line)) = word.rsplit_once(':') else { return false };
    let is_source = file.rsplit_once('.').is_some_and(|(_, extension)| SOURCES.contains(&extension));
    is_source && !line.is_empty() && line.bytes().all(|digit| digit.is_ascii_digit())
}

/// What follows `void onnxruntime::f(int, T) const [with T = float]`; all of `text` where it does not begin with such a
/// signature, which names a scope before its parameters.
fn after_signature(text: &str) -> &str {
    let Some(open) = text.find('(').filter(|&open| text[..open].contains("::")) else { return text };
    let Some(mut rest) = after_brackets(&text[open..], '(', ')') else { return text };
    rest = rest.strip_prefix(" const").unwrap_or(rest);
    if rest.starts_with(" [with ") {
        rest = after_brackets(rest.trim_start(), '[', ']').unwrap_or(rest);
    }
    rest
}

/// What follows the bracket that closes the one that `text` begins with.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_that_is_missing_is_named_with_the_remedy() {
        let said = "Exception during initialization: /src/string_normalizer.cc:91 Locale::Locale(const std::string&) Failed to \
                    construct locale with name:en_US.UTF-8:locale::facet::_S_create_c_locale name not valid:Please, install \
                    necessary language-pack-XX and configure locales";
        let told = for_callers(said);
        assert!(told.starts_with("the model needs the locale en_US.UTF-8, which this machine does not have"), "{told}");
        assert!(told.contains("localedef -i en_US -f UTF-8 en_US.UTF-8;"), "{told}");
    }

    #[test]
    fn no_path_and_no_place_in_the_sources_is_told() {
        for (said, told) in [
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
            assert_eq!(for_callers(said), told);
        }
    }
}
