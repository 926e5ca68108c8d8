//! JSON paths as Flink takes them: SQL's `lax` or `strict` before a path of Jayway JsonPath.
//!
//! Without a mode the path is strict (Flink follows Calcite here, though its documentation says lax): what is
//! missing is an error, to which ON ERROR applies; in lax mode it is empty. Steps are `.name`, `['name']`,
//! `[n]` (from the end if negative), `[*]`, `.*` and `..name`; filters and slices are refused with a message.

use datafusion::common::{Result, exec_err};
use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Key(String),
    Index(i64),
    /// `[*]` or `.*`
    All,
    /// `..name`, at any depth.
    Deep(String),
}

/// A compiled path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Path {
    pub lax: bool,
    steps: Vec<Step>,
    text: String,
}

/// What a path leads to.
pub(crate) enum Found<'a> {
    One(&'a Value),
    /// All that a path with `*` or `..` leads to: an array, possibly empty.
    Many(Vec<&'a Value>),
    Nothing,
}

impl Path {
    pub fn parse(text: &str) -> Result<Path> {
        let trimmed = text.trim();
        let mode = |word: &str| {
            let (head, rest) = trimmed.split_at_checked(word.len())?;
            (head.eq_ignore_ascii_case(word) && rest.starts_with(char::is_whitespace)).then(|| rest.trim())
        };
        let (lax, path) = match (mode("lax"), mode("strict")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => (false, trimmed),
        };
        match steps(path) {
            Ok(steps) => Ok(Path { lax, steps, text: path.to_string() }),
            Err(problem) => exec_err!("JSON path '{text}': {problem}"),
        }
    }

    /// Follows the path.
    pub fn find<'a>(&self, root: &'a Value) -> Found<'a> {
        if !self.steps.iter().any(|step| matches!(step, Step::All | Step::Deep(_))) {
            let mut value = root;
            for step in &self.steps {
                match follow(value, step) {
                    Some(next) => value = next,
                    None => return Found::Nothing,
                }
            }
            return Found::One(value);
        }
        let mut values = vec![root];
        for step in &self.steps {
            let mut next = vec![];
            for value in values {
                match (step, value) {
                    (Step::All, Value::Array(items)) => next.extend(items),
                    (Step::All, Value::Object(fields)) => next.extend(fields.values()),
                    (Step::All, _) => {}
                    (Step::Deep(name), value) => collect(value, name, &mut next),
                    (step, value) => next.extend(follow(value, step)),
                }
            }
            values = next;
        }
        Found::Many(values)
    }

    /// The path as an error names it.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn follow<'a>(value: &'a Value, step: &Step) -> Option<&'a Value> {
    match (step, value) {
        (Step::Key(name), Value::Object(fields)) => fields.get(name),
        (Step::Index(index), Value::Array(items)) => {
            let index = if *index < 0 { items.len() as i64 + index } else { *index };
            items.get(usize::try_from(index).ok()?)
        }
        _ => None,
    }
}

/// All fields of that name, at any depth. The depth is bounded by the parser's (128).
fn collect<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(name));
            fields.values().for_each(|value| collect(value, name, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, name, found)),
        _ => {}
    }
}

fn steps(path: &str) -> std::result::Result<Vec<Step>, String> {
    // A path without `$` starts at the root as well.
    let (mut rest, mut bare) = match path.strip_prefix('$') {
        Some(rest) => (rest, false),
        None => (path, true),
    };
    let mut steps = vec![];
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            let (name, after) = name(after);
            if name.is_empty() || name == "*" {
                return Err("'..' needs a name after it".into());
            }
            steps.push(Step::Deep(name.to_string()));
            rest = after;
        } else if rest.starts_with('[') || rest.starts_with(".[") {
            let inner = &rest[rest.find('[').unwrap_or(0) + 1..];
            let (step, after) = bracket(inner)?;
            steps.push(step);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('.').or(bare.then_some(rest)) {
            let (name, after) = name(after);
            match name {
                "" => return Err("a name is missing after '.'".into()),
                "*" => steps.push(Step::All),
                name if name.contains('(') => return Err(format!("the function '{name}' is not supported")),
                name => steps.push(Step::Key(name.to_string())),
            }
            rest = after;
        } else {
            return Err(format!("'{rest}' is not a step; write $.name or $[0]"));
        }
        bare = false;
    }
    Ok(steps)
}

fn name(text: &str) -> (&str, &str) {
    text.split_at(text.find(['.', '[']).unwrap_or(text.len()))
}

/// What stands between brackets, and what follows them.
fn bracket(inner: &str) -> std::result::Result<(Step, &str), String> {
    let trimmed = inner.trim_start();
    if let Some(quote) = trimmed.chars().next().filter(|c| *c == '\'' || *c == '"') {
        let mut name = String::new();
        let mut chars = trimmed[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                c if c == quote => {
                    let after = trimmed[1 + at + 1..].trim_start();
                    return match after.strip_prefix(']') {
                        Some(rest) => Ok((Step::Key(name), rest)),
                        None => Err("only one name may stand in brackets".into()),
                    };
                }
                c => name.push(c),
            }
        }
        return Err("a quoted name has no end".into());
    }
    let Some((index, rest)) = inner.split_once(']') else { return Err("'[' has no ']'".into()) };
    match index.trim() {
        "*" => Ok((Step::All, rest)),
        index => match index.parse() {
            Ok(index) => Ok((Step::Index(index), rest)),
            Err(_) => Err(format!("'[{index}]' is not supported; use [n], [*] or ['name']")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(path: &str, json: &str) -> String {
        let value: Value = serde_json::from_str(json).expect("JSON");
        match Path::parse(path).expect("a path").find(&value) {
            Found::One(value) => value.to_string(),
            Found::Many(values) => format!("many {}", values.iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" ")),
            Found::Nothing => "nothing".into(),
        }
    }

    #[test]
    fn paths_lead_somewhere() {
        let json = r#"{"a":{"b":[1,2,{"c":3}]},"x y":4,"c":5}"#;
        for (path, found) in [
            ("$", json), ("$.a.b[0]", "1"), ("lax $.a.b[-1].c", "3"), ("$['x y']", "4"), ("$.[\"x y\"]", "4"), ("c", "5"),
            ("$.a.b[9]", "nothing"), ("$.a.b.c", "nothing"), ("$.a.b[*]", "many 1 2 {\"c\":3}"), ("$..c", "many 5 3"),
        ] {
            assert_eq!(find(path, json), found, "{path}");
        }
    }

    #[test]
    fn unsupported_paths_say_so() {
        for path in ["$[?(@.a > 1)]", "$.a[1:2]", "$.", "$x", "$['a", "$.length()"] {
            assert!(Path::parse(path).is_err(), "{path}");
        }
    }
}
