//! Writes the configuration language of OpenBao (HCL 1): one attribute per line, blocks in the order they were added,
//! keys of free-form data sorted. The same tree always gives the same bytes, so a change of bytes is a change of meaning.

use std::fmt::{self, Display, Formatter};

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Quoted, with everything escaped that HCL would interpret.
    String(String),
    /// A whole number.
    Integer(i64),
    /// Any other JSON number, kept as JSON writes it.
    Number(serde_json::Number),
    /// `true` or `false`.
    Bool(bool),
    /// `[…]`
    List(Vec<Value>),
    /// `{ key = value }`
    Object(Vec<(String, Value)>),
}

impl From<&Value> for serde_json::Value {
    /// The same value as a request body has it.
    fn from(value: &Value) -> Self {
        match value {
            Value::String(text) => Self::from(text.clone()),
            Value::Integer(number) => Self::from(*number),
            Value::Number(number) => Self::Number(number.clone()),
            Value::Bool(truth) => Self::from(*truth),
            Value::List(list) => list.iter().map(Self::from).collect(),
            Value::Object(map) => {
                Self::Object(map.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect())
            }
        }
    }
}

/// Free-form data that cannot be written as HCL.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} is null, which OpenBao's configuration language cannot express: leave the field out")]
pub struct NullError {
    /// Where in the data, `config.keys[2]`.
    pub path: String,
}

impl Value {
    /// Translates free-form data of a spec. `path` names it in the error.
    pub fn from_json(value: &serde_json::Value, path: &str) -> Result<Self, NullError> {
        use serde_json::Value as Json;
        Ok(match value {
            Json::Null => return Err(NullError { path: path.to_owned() }),
            Json::Bool(yes) => Self::Bool(*yes),
            Json::Number(number) => number.as_i64().map_or_else(|| Self::Number(number.clone()), Self::Integer),
            Json::String(text) => Self::String(text.clone()),
            Json::Array(items) => Self::List(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| Self::from_json(item, &format!("{path}[{index}]")))
                    .collect::<Result<_, _>>()?,
            ),
            Json::Object(map) => {
                let mut entries = map
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), Self::from_json(value, &format!("{path}.{key}"))?)))
                    .collect::<Result<Vec<_>, _>>()?;
                entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                Self::Object(entries)
            }
        })
    }

    /// An object literal.
    pub fn object<K: Into<String>, V: Into<Self>>(entries: impl IntoIterator<Item = (K, V)>) -> Self {
        Self::Object(entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::String(text.clone())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

impl<V: Into<Self>> From<Vec<V>> for Value {
    fn from(items: Vec<V>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

/// The inside of a file or of a block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body(Vec<Item>);

#[derive(Clone, Debug, PartialEq)]
enum Item {
    Attribute(String, Value),
    Block(String, Vec<String>, Body),
}

impl Body {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `name = value`.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.push(Item::Attribute(name.to_owned(), value.into()));
        self
    }

    /// Adds `name = value` if there is a value.
    #[must_use]
    pub fn maybe(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.set(name, value),
            None => self,
        }
    }

    /// Adds `kind "label" { body }`.
    #[must_use]
    pub fn block(mut self, kind: &str, labels: &[&str], body: Self) -> Self {
        self.0.push(Item::Block(kind.to_owned(), labels.iter().map(|&label| label.to_owned()).collect(), body));
        self
    }

    /// Adds a block if there is a body.
    #[must_use]
    pub fn maybe_block(self, kind: &str, labels: &[&str], body: Option<Self>) -> Self {
        match body {
            Some(body) => self.block(kind, labels, body),
            None => self,
        }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn write(&self, out: &mut Formatter<'_>, depth: usize) -> fmt::Result {
        for item in &self.0 {
            indent(out, depth)?;
            match item {
                Item::Attribute(name, value) => {
                    write!(out, "{name} = ")?;
                    write_value(out, value, depth)?;
                    writeln!(out)?;
                }
                Item::Block(kind, labels, body) => {
                    write!(out, "{kind} ")?;
                    for label in labels {
                        write_quoted(out, label)?;
                        write!(out, " ")?;
                    }
                    writeln!(out, "{{")?;
                    body.write(out, depth + 1)?;
                    indent(out, depth)?;
                    writeln!(out, "}}")?;
                }
            }
        }
        Ok(())
    }
}

impl Display for Body {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        self.write(out, 0)
    }
}

fn indent(out: &mut Formatter<'_>, depth: usize) -> fmt::Result {
    write!(out, "{:width$}", "", width = depth * 2)
}

fn write_value(out: &mut Formatter<'_>, value: &Value, depth: usize) -> fmt::Result {
    match value {
        Value::String(text) => write_quoted(out, text),
        Value::Integer(number) => write!(out, "{number}"),
        Value::Number(number) => write!(out, "{number}"),
        Value::Bool(yes) => write!(out, "{yes}"),
        Value::List(items) => {
            write!(out, "[")?;
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    write!(out, ", ")?;
                }
                write_value(out, item, depth)?;
            }
            write!(out, "]")
        }
        Value::Object(entries) => {
            writeln!(out, "{{")?;
            for (key, value) in entries {
                indent(out, depth + 1)?;
                write_quoted(out, key)?;
                write!(out, " = ")?;
                write_value(out, value, depth + 1)?;
                writeln!(out)?;
            }
            indent(out, depth)?;
            write!(out, "}}")
        }
    }
}

/// A quoted string that means exactly `text`. HCL reads `${` as the start of a template and then looks for its end, so the
/// dollar is written as its code point.
fn write_quoted(out: &mut Formatter<'_>, text: &str) -> fmt::Result {
    write!(out, "\"")?;
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            '"' => write!(out, "\\\"")?,
            '\\' => write!(out, "\\\\")?,
            '\n' => write!(out, "\\n")?,
            '\r' => write!(out, "\\r")?,
            '\t' => write!(out, "\\t")?,
            '$' if rest.peek() == Some(&'{') => write!(out, "\\u0024")?,
            control if control.is_control() => write!(out, "\\u{:04x}", u32::from(control))?,
            plain => write!(out, "{plain}")?,
        }
    }
    write!(out, "\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn blocks_nest_and_attributes_stand_on_lines_of_their_own() {
        let body = Body::new().set("ui", true).block(
            "listener",
            &["tcp"],
            Body::new().set("address", "0.0.0.0:8200").set("tags", vec!["a", "b"]),
        );
        assert_eq!(
            body.to_string(),
            "ui = true\nlistener \"tcp\" {\n  address = \"0.0.0.0:8200\"\n  tags = [\"a\", \"b\"]\n}\n"
        );
    }

    #[test]
    fn text_cannot_leave_its_quotes_whatever_it_holds() {
        let nasty = Body::new().set("policy", "path \"a\\b\" {\n}\r\t${x} $y \u{7}");
        assert_eq!(nasty.to_string(), "policy = \"path \\\"a\\\\b\\\" {\\n}\\r\\t\\u0024{x} $y \\u0007\"\n");
    }

    #[test]
    fn free_form_data_is_written_with_sorted_keys() {
        let value = Value::from_json(&json!({"b": 1, "a": {"deep": [true, "x", 1.5]}}), "data").unwrap();
        let text = Body::new().set("data", value).to_string();
        assert_eq!(text, "data = {\n  \"a\" = {\n    \"deep\" = [true, \"x\", 1.5]\n  }\n  \"b\" = 1\n}\n");
    }

    #[test]
    fn null_is_refused_by_the_path_it_stands_at() {
        let error = Value::from_json(&json!({"list": [1, null]}), "data").unwrap_err();
        assert_eq!(error.path, "data.list[1]");
    }
}
