//! Owns `--format`: the part of Go's text/template that Docker's users write.
//!
//! `{{.Field}}`, `{{.Config.Env}}`, `{{.}}`; the functions `json`, `join`, `index`, `len`, `upper`, `lower`, `println`;
//! `{{range .List}}…{{end}}`, and `{{if .Field}}…{{else}}…{{end}}`; `\t` and `\n` outside of braces. Anything else is
//! refused by its name, so that a script never gets something other than what it asked for.

use std::iter::Peekable;

use grus_core::refusal::{nearest, printable, Refusal};
use serde_json::Value;

/// What `--format` asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// `json`: each item as a line of JSON.
    Json,
    /// The template for each item.
    Each(Template),
    /// `table TEMPLATE`: the same under headings, in columns.
    Table(Template),
    /// `table` alone: the command's usual table.
    Usual,
}

/// A template, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Show(Vec<Operand>),
    Range(Path, Vec<Part>),
    If(Path, Vec<Part>, Vec<Part>),
}

/// The names after dots; none for `{{.}}`.
type Path = Vec<String>;

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Field(Path),
    Function(String),
    Literal(String),
}

/// The functions of an action, with how many operands each takes.
const FUNCTIONS: [(&str, usize); 7] =
    [("json", 1), ("join", 2), ("index", 2), ("len", 1), ("upper", 1), ("lower", 1), ("println", 1)];

impl Format {
    /// Reads the value of `--format`; `shape` is an item with every field that there is.
    pub fn parse(text: &str, shape: &Value) -> Result<Self, Refusal> {
        let format = match text.strip_prefix("table") {
            _ if text == "json" => return Ok(Self::Json),
            Some("") => return Ok(Self::Usual),
            Some(rest) if rest.starts_with([' ', '\\', '\t']) => {
                Self::Table(Template::parse(rest.trim_start_matches([' ', '\t']))?)
            }
            _ => Self::Each(Template::parse(text)?),
        };
        if let Self::Each(template) | Self::Table(template) = &format {
            check(&template.0, shape)?;
        }
        Ok(format)
    }
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let mut tokens = tokens(text)?.into_iter().peekable();
        let (parts, end) = parts(&mut tokens)?;
        match end {
            None => Ok(Self(parts)),
            Some(word) => Err(bad(&format!("{{{{{word}}}}} has no beginning"))),
        }
    }

    /// Fills it in.
    pub fn fill(&self, item: &Value) -> Result<String, Refusal> {
        let mut out = String::new();
        fill(&self.0, item, &mut out)?;
        Ok(out)
    }

    /// The headings of its columns: the last name of each field, in capitals.
    pub fn headings(&self) -> String {
        let of = |operands: &[Operand]| {
            let path =
                operands.iter().find_map(|o| if let Operand::Field(path) = o { Some(path) } else { None });
            heading(path.and_then(|path| path.last()).map_or("", String::as_str))
        };
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Show(operands) => of(operands),
            Part::Range(path, _) | Part::If(path, ..) => heading(path.last().map_or("", String::as_str)),
        };
        self.0.iter().map(text).collect()
    }
}

/// `CreatedSince` as Docker heads it.
fn heading(name: &str) -> String {
    match name {
        "ID" => "IMAGE ID".into(),
        "CreatedSince" => "CREATED".into(),
        "CreatedAt" => "CREATED AT".into(),
        name => name.to_uppercase(),
    }
}

fn bad(why: &str) -> Refusal {
    Refusal::user(format!("--format: {}", printable(why)))
        .hint("write fields as {{.Name}}; {{json .}} shows what there is; functions: json join index len upper lower println")
}

/// Text, and the words of actions.
enum Token {
    Text(String),
    Action(Vec<Operand>),
}

fn tokens(text: &str) -> Result<Vec<Token>, Refusal> {
    let mut all = vec![];
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        push_text(&mut all, &rest[..at]);
        let after = &rest[at + 2..];
        let end = after.find("}}").ok_or_else(|| bad(&format!("'{{{{{after}' has no end")))?;
        all.push(Token::Action(operands(&after[..end])?));
        rest = &after[end + 2..];
    }
    push_text(&mut all, rest);
    Ok(all)
}

fn push_text(all: &mut Vec<Token>, text: &str) {
    if !text.is_empty() {
        // Docker's formatter takes these two, which a shell hands over as they are.
        all.push(Token::Text(text.replace("\\t", "\t").replace("\\n", "\n")));
    }
}

fn operands(action: &str) -> Result<Vec<Operand>, Refusal> {
    let mut all = vec![];
    let mut rest = action.trim_matches(|c: char| c == '-' || c.is_whitespace());
    while !rest.is_empty() {
        if rest.starts_with('|') || rest.starts_with('(') {
            return Err(bad(&format!("'{{{{{action}}}}}' has a {}, which is not known here", &rest[..1])));
        }
        let quoted = rest.chars().next().filter(|c| *c == '"' || *c == '`');
        if let Some(quote) = quoted {
            let end = rest[1..].find(quote).ok_or_else(|| bad(&format!("{rest} has no second {quote}")))?;
            let literal = &rest[1..=end];
            all.push(Operand::Literal(literal.replace("\\n", "\n").replace("\\t", "\t")));
            rest = rest[end + 2..].trim_start();
            continue;
        }
        let end = rest.find(|c: char| c.is_whitespace()).unwrap_or(rest.len());
        let word = &rest[..end];
        all.push(match word.strip_prefix('.') {
            Some(path) => {
                Operand::Field(path.split('.').filter(|n| !n.is_empty()).map(str::to_owned).collect())
            }
            None if word.bytes().all(|b| b.is_ascii_digit()) => Operand::Literal(word.to_owned()),
            None => Operand::Function(word.to_owned()),
        });
        rest = rest[end..].trim_start();
    }
    match all.is_empty() {
        true => Err(bad("'{{}}' names nothing")),
        false => Ok(all),
    }
}

/// Parts up to the end of the text or of the block they are in; and the word that ended the block.
fn parts(tokens: &mut Peekable<std::vec::IntoIter<Token>>) -> Result<(Vec<Part>, Option<String>), Refusal> {
    let mut all = vec![];
    while let Some(token) = tokens.next() {
        let operands = match token {
            Token::Text(text) => {
                all.push(Part::Text(text));
                continue;
            }
            Token::Action(operands) => operands,
        };
        match &operands[..] {
            [Operand::Function(word)] if word == "end" || word == "else" => {
                return Ok((all, Some(word.clone())))
            }
            [Operand::Function(word), Operand::Field(path)] if word == "range" => {
                let (inner, end) = parts(tokens)?;
                ended(end.as_deref(), word)?;
                all.push(Part::Range(path.clone(), inner));
            }
            [Operand::Function(word), Operand::Field(path)] if word == "if" => {
                let (inner, end) = parts(tokens)?;
                let (other, end) = match end.as_deref() {
                    Some("else") => parts(tokens)?,
                    _ => (vec![], end),
                };
                ended(end.as_deref(), word)?;
                all.push(Part::If(path.clone(), inner, other));
            }
            _ => {
                known(&operands)?;
                all.push(Part::Show(operands));
            }
        }
    }
    Ok((all, None))
}

fn ended(end: Option<&str>, word: &str) -> Result<(), Refusal> {
    match end {
        Some("end") => Ok(()),
        _ => Err(bad(&format!("{{{{{word}}}}} has no {{{{end}}}}"))),
    }
}

/// Whether an action is a value, or a known function with its operands.
fn known(operands: &[Operand]) -> Result<(), Refusal> {
    match operands {
        [Operand::Field(_) | Operand::Literal(_)] => Ok(()),
        [Operand::Function(name), operands @ ..] => {
            let function = FUNCTIONS.iter().find(|(known, _)| known == name);
            let Some((_, count)) = function else {
                let near = nearest(name, FUNCTIONS.iter().map(|(name, _)| *name));
                let near = near.map_or(String::new(), |near| format!("; did you mean '{near}'?"));
                return Err(bad(&format!("there is no function '{name}'{near}")));
            };
            match operands.iter().any(|o| matches!(o, Operand::Function(_))) {
                true => Err(bad(&format!("'{name}' takes fields, no functions"))),
                false if operands.len() == *count => Ok(()),
                false => Err(bad(&format!("'{name}' takes {count} operands, not {}", operands.len()))),
            }
        }
        _ => Err(bad("an action is one field, or a function and its operands")),
    }
}

/// Whether every field is one of `shape`; within a list, of what it has first.
fn check(parts: &[Part], shape: &Value) -> Result<(), Refusal> {
    for part in parts {
        match part {
            Part::Text(_) => {}
            Part::Show(operands) => {
                for operand in operands {
                    if let Operand::Field(path) = operand {
                        lookup(shape, path)?;
                    }
                }
            }
            Part::Range(path, inner) => {
                let first = match lookup(shape, path)? {
                    Value::Array(list) => list.first(),
                    Value::Object(map) => map.values().next(),
                    Value::Null => None,
                    _ => return Err(bad(&format!("'.{}' is no list", path.join(".")))),
                };
                first.map_or(Ok(()), |first| check(inner, first))?;
            }
            Part::If(path, inner, other) => {
                lookup(shape, path)?;
                check(inner, shape)?;
                check(other, shape)?;
            }
        }
    }
    Ok(())
}

fn lookup<'a>(item: &'a Value, path: &[String]) -> Result<&'a Value, Refusal> {
    let mut at = item;
    for name in path {
        at = match at {
            Value::Null => at,
            Value::Object(map) => match map.get(name) {
                Some(value) => value,
                None => {
                    let near = nearest(name, map.keys().map(String::as_str));
                    let all = map.keys().cloned().collect::<Vec<_>>().join(" ");
                    let hint = match near {
                        Some(near) => format!("did you mean .{near}? There are: {all}"),
                        None => format!("there are: {all}"),
                    };
                    return Err(bad(&format!("there is no field '.{}'", path.join("."))).hint(hint));
                }
            },
            _ => return Err(bad(&format!("'.{}' is no object", path.join(".")))),
        };
    }
    Ok(at)
}

fn fill(parts: &[Part], item: &Value, out: &mut String) -> Result<(), Refusal> {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Show(operands) => out.push_str(&shown(operands, item)?),
            Part::Range(path, inner) => match lookup(item, path)? {
                Value::Array(list) => list.iter().try_for_each(|item| fill(inner, item, out))?,
                Value::Object(map) => map.values().try_for_each(|item| fill(inner, item, out))?,
                _ => {}
            },
            Part::If(path, inner, other) => match is_true(lookup(item, path)?) {
                true => fill(inner, item, out)?,
                false => fill(other, item, out)?,
            },
        }
    }
    Ok(())
}

/// As Go has it: neither empty nor zero.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn shown(operands: &[Operand], item: &Value) -> Result<String, Refusal> {
    let value = |operand: &Operand| match operand {
        Operand::Field(path) => lookup(item, path).cloned(),
        Operand::Literal(text) | Operand::Function(text) => Ok(Value::String(text.clone())),
    };
    let (name, operands) = match operands {
        [Operand::Function(name), operands @ ..] => (name.as_str(), operands),
        operands => ("", operands),
    };
    let values = operands.iter().map(value).collect::<Result<Vec<_>, _>>()?;
    Ok(match (name, &values[..]) {
        ("json", [one]) => one.to_string(),
        ("len", [Value::Array(list)]) => list.len().to_string(),
        ("len", [Value::Object(map)]) => map.len().to_string(),
        ("len", [one]) => plain(one).chars().count().to_string(),
        ("upper", [one]) => plain(one).to_uppercase(),
        ("lower", [one]) => plain(one).to_lowercase(),
        ("println", [one]) => plain(one) + "\n",
        ("join", [Value::Array(list), between]) => {
            list.iter().map(plain).collect::<Vec<_>>().join(&plain(between))
        }
        ("join", [Value::Null, _]) => String::new(),
        ("index", [Value::Array(list), at]) => {
            plain(at).parse::<usize>().ok().and_then(|at| list.get(at)).map_or(String::new(), plain)
        }
        ("index", [Value::Object(map), key]) => map.get(&plain(key)).map_or(String::new(), plain),
        ("", [one]) => plain(one),
        (name, _) => return Err(bad(&format!("'{name}' cannot be used on this field"))),
    })
}

/// A value as Go prints it, lists and maps included. What is shown is one line's text, so that it is safe to show.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => clean(text),
        Value::Array(list) => format!("[{}]", list.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{}:{}", clean(k), plain(v))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

/// Without control characters: images and their labels are strangers'. Whole, since scripts read it.
fn clean(text: &str) -> String {
    let each = |c: char| match c.is_control() && c != '\n' && c != '\t' {
        true => format!("\\x{:02x}", c as u32),
        false => c.to_string(),
    };
    text.chars().map(each).collect()
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
