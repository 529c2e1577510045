//! Parser of protobuf's text format, as far as `config.pbtxt` files use it: scalar fields, messages, lists, comments.
//!
//! A library such as `prost-reflect` would need Triton's whole schema and would reject files of a newer Triton. This parser reads
//! every field, and its caller lists those that it does not use.

use std::iter::Peekable;
use std::str::CharIndices;

/// Maximum nesting depth of messages.
const MAX_DEPTH: usize = 32;

/// A message: its fields in file order. A repeated field occurs several times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// Names and values.
    pub fields: Vec<(String, Value)>,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number, a Boolean or the name of an enum value, as written.
    Word(String),
    /// A quoted string, without the quotes.
    Text(String),
    /// A nested message.
    Message(Message),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Mark(char),
}

impl Message {
    /// Parses a whole file. The error begins with the line number.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { text, chars: text.char_indices().peekable(), lookahead: None };
        let message = reader.message(None, 0)?;
        Ok(message)
    }

    /// All values of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| value)
    }

    /// The last value of a field, which overrides earlier values.
    pub fn last(&self, name: &str) -> Option<&Value> {
        self.fields.iter().rev().find(|(field, _)| field == name).map(|(_, value)| value)
    }
}

impl Value {
    /// The text of a word or a string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Word(text) | Self::Text(text) => Some(text),
            Self::Message(_) => None,
        }
    }

    /// A whole number.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Word(word) => word.parse().ok(),
            Self::Text(_) | Self::Message(_) => None,
        }
    }

    /// A message.
    pub fn message(&self) -> Option<&Message> {
        match self {
            Self::Message(message) => Some(message),
            Self::Word(_) | Self::Text(_) => None,
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
    lookahead: Option<Token>,
}

impl Reader<'_> {
    /// Parses fields until `end`, or until the end of the file.
    fn message(&mut self, end: Option<char>, depth: usize) -> Result<Message, String> {
        let mut message = Message::default();
        loop {
            match self.next()? {
                None if end.is_none() => return Ok(message),
                None => return Err(self.error("a bracket is not closed")),
                Some(Token::Mark(mark)) if Some(mark) == end => return Ok(message),
                Some(Token::Mark(',' | ';')) => {}
                Some(Token::Word(name)) => self.field(name, &mut message, depth)?,
                Some(token) => return Err(self.error(&format!("a field's name is expected, not {}", display(&token)))),
            }
        }
    }

    fn field(&mut self, name: String, message: &mut Message, depth: usize) -> Result<(), String> {
        let mut token = self.next()?;
        let has_colon = token == Some(Token::Mark(':'));
        if has_colon {
            token = self.next()?;
        }
        match token {
            Some(Token::Mark('[')) => loop {
                match self.next()? {
                    Some(Token::Mark(']')) => return Ok(()),
                    Some(Token::Mark(',')) => {}
                    token => message.fields.push((name.clone(), self.value(token, true, depth)?)),
                }
            },
            token => {
                let value = self.value(token, has_colon, depth)?;
                message.fields.push((name, value));
                Ok(())
            }
        }
    }

    fn value(&mut self, token: Option<Token>, has_colon: bool, depth: usize) -> Result<Value, String> {
        match token {
            Some(Token::Mark(open @ ('{' | '<'))) => {
                if depth == MAX_DEPTH {
                    return Err(self.error(&format!("messages are nested more than {MAX_DEPTH} levels deep")));
                }
                let end = if open == '{' { '}' } else { '>' };
                Ok(Value::Message(self.message(Some(end), depth + 1)?))
            }
            Some(Token::Word(word)) if has_colon => Ok(Value::Word(word)),
            Some(Token::Text(mut text)) if has_colon => {
                // Adjacent strings are concatenated.
                loop {
                    match self.next()? {
                        Some(Token::Text(more)) => text.push_str(&more),
                        other => {
                            self.lookahead = other;
                            return Ok(Value::Text(text));
                        }
                    }
                }
            }
            Some(token) => Err(self.error(&format!("a value is expected, not {}", display(&token)))),
            None => Err(self.error("a value is missing at the end")),
        }
    }

    fn next(&mut self) -> Result<Option<Token>, String> {
        if let Some(token) = self.lookahead.take() {
            return Ok(Some(token));
        }
        while let Some(&(_, c)) = self.chars.peek() {
            if c == '#' {
                while self.chars.next_if(|&(_, c)| c != '\n').is_some() {}
            } else if c.is_whitespace() || c == '\u{feff}' {
                self.chars.next();
            } else {
                break;
            }
        }
        let Some((start, c)) = self.chars.next() else { return Ok(None) };
        match c {
            '"' | '\'' => self.quoted(c).map(|text| Some(Token::Text(text))),
            '{' | '}' | '<' | '>' | '[' | ']' | ':' | ',' | ';' => Ok(Some(Token::Mark(c))),
            c if is_word(c) => {
                let mut end = start + c.len_utf8();
                while let Some((at, c)) = self.chars.next_if(|&(_, c)| is_word(c)) {
                    end = at + c.len_utf8();
                }
                Ok(Some(Token::Word(self.text[start..end].to_owned())))
            }
            other => Err(self.error(&format!("{other:?} is not part of the text format"))),
        }
    }

    /// Parses a string up to its closing quote.
    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.chars.next().map(|(_, c)| c) {
                None | Some('\n') => return Err(self.error("a string is not closed")),
                Some(c) if c == quote => return Ok(text),
                Some('\\') => match self.chars.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(c @ ('\\' | '"' | '\'' | '?')) => text.push(c),
                    _ => {
                        return Err(self.error(
                            "the escape is not supported; strings may contain \\n, \\t, \\r, \\\\, \\\" and \\'",
                        ));
                    }
                },
                Some(c) => text.push(c),
            }
        }
    }

    fn error(&mut self, reason: &str) -> String {
        let at = self.chars.peek().map_or(self.text.len(), |&(at, _)| at);
        // The text before `at` has been read. It may end with a line break.
        let line = self.text[..at].trim_end().matches('\n').count() + 1;
        format!("line {line}: {reason}")
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.+-".contains(c)
}

fn display(token: &Token) -> String {
    match token {
        Token::Word(word) => format!("{word:?}"),
        Token::Text(text) => format!("the string {text:?}"),
        Token::Mark(mark) => format!("{mark:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_notations_of_a_field_are_parsed() {
        let text = r#"
            # A comment.
            name: "a \"b\"" 'c'   max_batch_size: 8;
            input [ { name: "x" dims: [ 3, -1 ] }, < name: 'z' > ]
            input: { name: "y", dims: 1 dims: 2 }
            empty {}
            parameters { key: "k" value: { string_value: "v" } }
        "#;
        let message = Message::parse(text).unwrap();
        assert_eq!(message.last("name").unwrap().text(), Some("a \"b\"c"));
        assert_eq!(message.last("max_batch_size").unwrap().integer(), Some(8));
        let inputs: Vec<_> = message.all("input").map(|input| input.message().unwrap()).collect();
        let names: Vec<_> = inputs.iter().map(|input| input.last("name").unwrap().text().unwrap()).collect();
        assert_eq!(names, ["x", "z", "y"]);
        let dims = |input: &Message| input.all("dims").filter_map(Value::integer).collect::<Vec<_>>();
        assert_eq!((dims(inputs[0]), dims(inputs[2])), (vec![3, -1], vec![1, 2]));
        assert_eq!(message.last("empty").unwrap().message(), Some(&Message::default()));
        assert_eq!(Message::parse(""), Ok(Message::default()));
    }

    #[test]
    fn a_syntax_error_is_reported_with_its_line() {
        let deep = "a {".repeat(MAX_DEPTH + 1);
        for (text, words) in [
            ("name: \"x", "line 1: a string is not closed"),
            ("a: 1\nb {\n c: 2", "line 3: a bracket is not closed"),
            ("a: 1\n}", "line 2: a field's name is expected, not '}'"),
            ("a:", "line 1: a value is missing at the end"),
            ("a: }", "line 1: a value is expected, not '}'"),
            ("a 1", "line 1: a value is expected, not \"1\""),
            ("{\"a\": 1}", "line 1: a field's name is expected, not '{'"),
            ("a: 1 $", "line 1: '$' is not part of the text format"),
            ("a: \"\\x41\"", "line 1: the escape is not supported"),
            (&deep, "line 1: messages are nested more than 32 levels deep"),
        ] {
            let error = Message::parse(text).unwrap_err();
            assert!(error.starts_with(words), "{text}: {error}");
        }
    }
}
