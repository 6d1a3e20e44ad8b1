//! A command line that works as it is pasted, whichever configuration the daemon reads.

use std::path::Path;

use super::DEFAULT_FILE;
use crate::domain::text::shell_word;

/// `batch-export-watcher VERB`, with `-c FILE` unless the file is the default.
pub fn command(verb: &str, file: &Path) -> String {
    if file == Path::new(DEFAULT_FILE) {
        format!("batch-export-watcher {verb}")
    } else {
        format!("batch-export-watcher {verb} -c {}", shell_word(&file.to_string_lossy()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_the_file_that_is_not_the_default_as_a_shell_takes_it() {
        let retry = |path: &str| command("retry", Path::new(path));
        assert_eq!(retry(DEFAULT_FILE), "batch-export-watcher retry");
        assert_eq!(retry("/srv/c.toml"), "batch-export-watcher retry -c /srv/c.toml");
        for path in ["/a b/it's $HOME.toml", "/c;true", "-c.toml", "/tmp/é\n"] {
            let command = retry(path);
            let word = command.trim_start_matches("batch-export-watcher retry -c ");
            let read = std::process::Command::new("sh")
                .args(["-c", &format!("printf '%s|' {word}")])
                .output();
            assert_eq!(String::from_utf8_lossy(&read.unwrap().stdout), format!("{path}|"));
        }
    }
}
