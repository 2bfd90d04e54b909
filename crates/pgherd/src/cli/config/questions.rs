//! What `pgherd config init` asks on a terminal, for what no flag has said.

use std::io::{BufRead, Write};

use super::super::failure::Failure;

/// Asks until `read` takes the answer; an empty one stands for `default`.
pub fn ask<T>(
    question: &str,
    default: &str,
    read: impl Fn(&str) -> Result<T, String>,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<T, Failure> {
    loop {
        match default {
            "" => write!(output, "{question}: ")?,
            default => write!(output, "{question} [{default}]: ")?,
        }
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        let answer = if line.trim().is_empty() { default } else { line.trim() };
        match read(answer) {
            Ok(value) => return Ok(value),
            Err(why) => writeln!(output, "  {why}")?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_asked_until_its_answer_is_right() {
        let mut output = Vec::new();
        let read = |text: &str| text.parse::<u16>().map_err(|error| error.to_string());
        let answer = ask("Port", "", read, &mut &b"\nmany\n7\n"[..], &mut output).unwrap();
        assert_eq!(answer, 7);
        let told = String::from_utf8(output).unwrap();
        assert_eq!(told.matches("Port: ").count(), 3, "{told}");
        assert_eq!(ask("Port", "5", read, &mut &b"\n"[..], &mut Vec::new()).unwrap(), 5);
        assert!(
            ask("Port", "5", read, &mut &b""[..], &mut Vec::new()).is_err(),
            "the end of the input is no answer"
        );
    }
}
