//! Lines to fields, fields to tokens, as PostgreSQL's `next_token` has it.
//!
//! Fields are parted by blanks, the tokens of a field by commas. Double quotes let blanks, commas and `#` be part of a
//! token; a token that *begins* with one has lost its meaning as a keyword (`"all"` is a name, `a"ll"` is not).

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    pub text: String,
    /// A quote stood before its first character.
    pub is_quoted: bool,
}

impl Token {
    pub fn is_keyword(&self, keyword: &str) -> bool {
        !self.is_quoted && self.text == keyword
    }
}

pub type Field = Vec<Token>;

/// Logical lines with the numbers of their first: a backslash at the end continues a line.
pub fn joined(lines: &[String]) -> Vec<(usize, String)> {
    let mut joined: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    // A text with line ends inside is several lines: nothing may hide behind a comment.
    let lines = lines.iter().flat_map(|line| line.split('\n'));
    for (number, line) in (1..).zip(lines) {
        let line = line.trim_end_matches('\r');
        let (text, goes_on) = line.strip_suffix('\\').map_or((line, false), |text| (text, true));
        match joined.last_mut().filter(|_| continues) {
            Some((_, before)) => before.push_str(text),
            None => joined.push((number, text.to_owned())),
        }
        continues = goes_on;
    }
    joined
}

pub fn fields(line: &str) -> Result<Vec<Field>, String> {
    if line.contains('\0') {
        return Err("a NUL character".to_owned());
    }
    let mut rest = line;
    let mut fields = Vec::new();
    let mut field = Field::new();
    while let Some((token, has_comma, after)) = next_token(rest)? {
        field.push(token);
        rest = after;
        if !has_comma {
            fields.push(std::mem::take(&mut field));
        }
    }
    if !field.is_empty() {
        fields.push(field);
    }
    Ok(fields)
}

/// The token at the front, whether a comma ends it, and what follows.
fn next_token(text: &str) -> Result<Option<(Token, bool, &str)>, String> {
    let text = text.trim_start_matches([' ', '\t', '\r', ',']);
    let mut token = Token { text: String::new(), is_quoted: false };
    let (mut in_quote, mut was_quote, mut saw_quote) = (false, false, false);
    let (mut rest, mut has_comma) = ("", false);
    for (at, char) in text.char_indices() {
        if !in_quote && matches!(char, ' ' | '\t' | '\r' | ',' | '#') {
            has_comma = char == ',';
            rest = match char {
                '#' => "",
                ',' => &text[at + 1..],
                _ => &text[at..],
            };
            break;
        }
        if char != '"' || was_quote {
            token.text.push(char);
        }
        // Two quotes inside of quotes are one that is meant.
        was_quote = in_quote && char == '"' && !was_quote;
        if char == '"' {
            in_quote = !in_quote;
            saw_quote = true;
            token.is_quoted |= token.text.is_empty();
        }
    }
    // PostgreSQL lets a quote run to the end of the line, and a typing error swallow a method.
    if in_quote {
        return Err("a quote is not closed".to_owned());
    }
    Ok((saw_quote || !token.text.is_empty()).then_some((token, has_comma, rest)))
}
