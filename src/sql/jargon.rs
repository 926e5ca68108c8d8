//! DataFusion's words in its messages as those of Flink SQL.

/// The message, and a hint if there is a likely fix.
pub(super) fn plain(text: &str) -> (String, Option<String>) {
    let mut text = flink_types(text);
    let mut hint = None;
    if let Some(at) = text.find(" No function matches the given name") {
        text.truncate(at);
    }
    for noise in ["Error during planning: ", "Execution error: ", "This feature is not implemented: "] {
        text = text.replace(noise, "");
    }
    // A function's own complaint is in the middle of what the planner made of it.
    if let Some((_, own)) = text.split_once("coercion failed with: ") {
        text = own.to_owned();
    }
    if let Some((message, advice)) = text.clone().split_once("; write ") {
        (text, hint) = (message.to_owned(), Some(format!("write {}", advice.trim_end_matches('.'))));
    }
    if let Some((message, _)) = text.clone().split_once(". Consider using HAVING") {
        (text, hint) = (message.to_owned(), Some("conditions on aggregates stand in HAVING".to_owned()));
    }
    if let Some((_, types)) = text.split_once("annot infer common argument type for comparison operation ") {
        text = format!("the types cannot be compared: {types}");
        hint = Some("CAST one of them, or name a field of the row".to_owned());
    }
    if let Some((_, rest)) = text.split_once("for logical boolean operation ") {
        text = format!("both sides of AND and OR must be BOOLEAN, found: {rest}");
    }
    if text.contains("a call to 'require' function") {
        text = "REQUIRE takes a condition and a reason".to_owned();
        hint = Some("REQUIRE(condition, 'reason')".to_owned());
    }
    if let Some(rest) = text.to_lowercase().strip_prefix("incompatible inputs for union: ") {
        let column = rest.rsplit('\'').nth(1).map(str::to_owned);
        text = format!(
            "the queries of a UNION have different types{}",
            column.map(|c| format!(" in column '{c}'")).unwrap_or_default()
        );
        hint = Some("CAST the columns to one type".to_owned());
    }
    if let Some((_, node)) = text.split_once("nsupported ast node ") {
        let name: String = node.chars().take_while(|c| c.is_alphanumeric()).collect();
        text = format!("{} is not supported", words(&name));
    }
    (text, hint)
}

/// `MatchRecognize` as `MATCH_RECOGNIZE`.
fn words(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_uppercase());
    }
    out
}

/// Arrow's names of types as Flink's, wherever they stand.
fn flink_types(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if word.is_empty() {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        rest = &rest[word.len()..];
        match word.as_str() {
            "Struct" if rest.starts_with('(') => {
                let Some(length) = closing(rest) else {
                    out.push_str(&word);
                    continue;
                };
                let fields = flink_types(&rest[1..length]).replace("\": ", " ").replace('"', "");
                out.push_str(&format!("ROW<{fields}>"));
                rest = &rest[length + 1..];
            }
            "Decimal128" => out.push_str("DECIMAL"),
            "Utf8" | "Utf8View" | "LargeUtf8" => out.push_str("STRING"),
            "Boolean" => out.push_str("BOOLEAN"),
            "Int8" => out.push_str("TINYINT"),
            "Int16" => out.push_str("SMALLINT"),
            "Int32" => out.push_str("INT"),
            "Int64" => out.push_str("BIGINT"),
            "Float32" => out.push_str("FLOAT"),
            "Float64" => out.push_str("DOUBLE"),
            "Date32" => out.push_str("DATE"),
            _ => out.push_str(&word),
        }
    }
    out
}

/// Where the parenthesis at the start of `text` is closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_flink() {
        assert_eq!(flink_types("Struct(\"code\": Utf8View, \"n\": Int32) > Int64"), "ROW<code STRING, n INT> > BIGINT");
        assert_eq!(words("MatchRecognize"), "MATCH_RECOGNIZE");
    }
}
