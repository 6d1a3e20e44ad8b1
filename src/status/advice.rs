//! What a person can do about a failed export, with a command that works as it is pasted.

use std::path::Path;

use crate::config::DEFAULT_FILE;
use crate::domain::failure::FailureKind;

/// What to do, and the command to be typed at the end, where there is one.
pub(super) fn advice(
    kind: FailureKind,
    export: &str,
    config_file: &Path,
) -> (String, Option<String>) {
    let again = "start the export again in Batch, and replace the id in the configuration";
    let before = match kind {
        FailureKind::RemoteError | FailureKind::PartGone => return (again.to_owned(), None),
        FailureKind::Expired => return (format!("Batch has forgotten the export: {again}"), None),
        FailureKind::NotFound => "check the id and the project's project_key, then",
        FailureKind::Rejected => "check the id, then",
        FailureKind::Conflict => "move the foreign file away, then",
    };
    let command = retry_command(export, config_file);
    (format!("{before}: {command}"), Some(command))
}

fn retry_command(export: &str, config_file: &Path) -> String {
    if config_file == Path::new(DEFAULT_FILE) {
        format!("batch-export-watcher retry {export}")
    } else {
        format!("batch-export-watcher retry -c {} {export}", quoted(&config_file.to_string_lossy()))
    }
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "/._-+,:@%=".contains(character);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_the_file_that_is_not_the_default_as_a_shell_takes_it() {
        let command =
            |path: &str| advice(FailureKind::Rejected, "export_1", Path::new(path)).1.unwrap();
        assert_eq!(command(DEFAULT_FILE), "batch-export-watcher retry export_1");
        assert_eq!(command("/srv/c.toml"), "batch-export-watcher retry -c /srv/c.toml export_1");
        for path in ["/a b/it's $HOME.toml", "/c;true", "-c.toml", "/tmp/é\n"] {
            let command = command(path);
            let word = command.trim_start_matches("batch-export-watcher retry -c ");
            let read = std::process::Command::new("sh")
                .args(["-c", &format!("printf '%s|' {word}")])
                .output();
            assert_eq!(String::from_utf8_lossy(&read.unwrap().stdout), format!("{path}|export_1|"));
        }
    }

    #[test]
    fn a_failure_that_no_retry_can_mend_has_no_command() {
        let (words, command) = advice(FailureKind::Expired, "export_1", Path::new(DEFAULT_FILE));
        assert!(words.starts_with("Batch has forgotten the export: start"), "{words}");
        assert_eq!(command, None);
    }
}
