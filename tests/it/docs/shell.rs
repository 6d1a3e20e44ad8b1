//! As much of the shell as the documents use: words, quotes, comments, lists, pipes, subshells and
//! redirections.

use std::iter::Peekable;
use std::str::Chars;

/// The simple commands of a text, each as its words. What is redirected is left out.
pub(super) fn commands(text: &str) -> Result<Vec<Vec<String>>, String> {
    let text = text.replace("\\\n", " ");
    let mut rest = text.chars().peekable();
    let mut commands = vec![Vec::new()];
    let mut redirected = false;
    while let Some(&next) = rest.peek() {
        match next {
            '#' => while rest.next_if(|c| *c != '\n').is_some() {},
            '\n' | ';' | '&' | '|' | '(' | ')' => {
                rest.next();
                commands.push(Vec::new());
            }
            '<' | '>' => {
                rest.next();
                redirected = true;
            }
            c if c.is_whitespace() => {
                rest.next();
            }
            _ => {
                let word = word(&mut rest)?;
                if !std::mem::take(&mut redirected) {
                    commands.last_mut().expect("never empty").push(word);
                }
            }
        }
    }
    commands.retain(|words| !words.is_empty());
    Ok(commands)
}

fn word(rest: &mut Peekable<Chars>) -> Result<String, String> {
    let mut word = String::new();
    while let Some(next) = rest.next_if(|c| !c.is_whitespace() && !";&|()<>".contains(*c)) {
        match next {
            quote @ ('"' | '\'') => loop {
                match rest.next() {
                    None => return Err(format!("a quote has no end: {word}")),
                    Some(end) if end == quote => break,
                    Some(inside) => word.push(inside),
                }
            },
            '\\' => word.extend(rest.next()),
            plain => word.push(plain),
        }
    }
    Ok(word)
}

#[test]
fn words_are_those_of_a_shell() {
    let text = "A=1 \\\n  b 'c d' \"e # f\" g\\ h # i\n(umask 077; cat >key) && x | y --z=\"1\"\n\n# only a comment\n";
    let found = commands(text).expect("well-formed");
    let found: Vec<_> = found.iter().map(|words| words.join("_")).collect();
    assert_eq!(found, ["A=1_b_c d_e # f_g h", "umask_077", "cat", "x", "y_--z=1"]);
    assert!(commands("say 'it").is_err());
}
