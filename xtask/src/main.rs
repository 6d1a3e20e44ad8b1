//! `cargo xtask assets`: makes manual pages and shell completions from the program's own command
//! line, and the changelog that a Debian package needs.
//!
//! Packages take them from `target/assets`. They are not in the repository, so they are never out
//! of date.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use batch_export_watcher::cli::Cli;
use batch_export_watcher::exit;
use clap::{Command, CommandFactory as _, Parser, Subcommand};
use clap_complete::{Shell, generate_to};
use jiff::Timestamp;
use jiff::fmt::rfc2822;

const PROGRAM: &str = "batch-export-watcher";
/// Who signs the changelog of the Debian package: as `maintainer` in Cargo.toml.
const MAINTAINER: &str = "batch-export-watcher maintainers <maintainers@example.invalid>";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Makes the files that packages need besides the program.
#[derive(Debug, Parser)]
struct Xtask {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Make manual pages, shell completions and Debian's changelog.
    Assets {
        /// The folder for the files; existing ones are replaced.
        #[arg(long, value_name = "DIR", default_value = "target/assets")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let Task::Assets { out } = Xtask::parse().task;
    match assets(&out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is gone, nobody can be told.
            let _ = writeln!(io::stderr(), "{}: {error}", out.display());
            ExitCode::FAILURE
        }
    }
}

fn assets(out: &Path) -> io::Result<()> {
    let (man, completions) = (out.join("man"), out.join("completions"));
    for folder in [&man, &completions] {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(folder)?,
        }
    }
    let mut changelog =
        OpenOptions::new().write(true).create(true).truncate(true).open(out.join("changelog"))?;
    changelog.write_all(debian_changelog()?.as_bytes())?;
    let command = without_hidden(Cli::command());
    clap_mangen::generate_to(command.clone(), &man)?;
    let mut page = OpenOptions::new().append(true).open(man.join(format!("{PROGRAM}.1")))?;
    page.write_all(closing_sections().as_bytes())?;
    for shell in SHELLS {
        generate_to(shell, &mut command.clone(), PROGRAM, &completions)?;
    }
    Ok(())
}

/// Removes hidden subcommands: clap would complete them too.
fn without_hidden(command: Command) -> Command {
    let shown: Vec<_> =
        command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned().collect();
    if shown.len() == command.get_subcommands().count() {
        return command;
    }
    let mut clean = Command::new(PROGRAM).args(command.get_arguments().cloned()).subcommands(shown);
    clean = clean.subcommand_required(true).arg_required_else_help(true).propagate_version(true);
    if let Some(about) = command.get_about() {
        clean = clean.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        let version: &'static str = version.to_owned().leak();
        clean = clean.version(version);
    }
    clean
}

/// One entry for the version that is being built; CHANGELOG.md lists the changes.
fn debian_changelog() -> io::Result<String> {
    let version = Cli::command().get_version().unwrap_or_default().to_owned();
    // The time of a reproducible build, else now.
    let built_at = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => seconds
            .parse()
            .map_err(io::Error::other)
            .and_then(|seconds| Timestamp::from_second(seconds).map_err(io::Error::other))?,
        Err(_) => Timestamp::now(),
    };
    let date =
        rfc2822::DateTimePrinter::new().timestamp_to_string(&built_at).map_err(io::Error::other)?;
    // Debian writes UTC as +0000.
    let date = date.replace("-0000", "+0000");
    Ok(format!(
        "{PROGRAM} ({version}-1) unstable; urgency=medium\n\n  * Release {version}.\n\n \
         -- {MAINTAINER}  {date}\n"
    ))
}

/// The sections of the main page after the command line.
fn closing_sections() -> String {
    let codes = [
        (exit::DONE, "Drained after a signal, or settled with every export whole."),
        (
            exit::EXPORTS_FAILED,
            "Settled with at least one failed export. \\fIstatus \\-\\-check\\fR: no daemon answers.",
        ),
        (exit::USAGE, "The command line is wrong."),
        (exit::INTERNAL, "Internal error."),
        (exit::UNFINISHED, "Unfinished: try again later."),
        (exit::CREDENTIALS_REFUSED, "Settled, but the API refuses the credentials."),
        (
            exit::CONFIGURATION,
            "The configuration is wrong. Each fault is on one line, with file, line and key.",
        ),
    ];
    let codes: String =
        codes.iter().map(|(code, words)| format!(".TP\n\\fB{code}\\fR\n{words}\n")).collect();
    format!(
        "\
.SH \"EXIT STATUS\"
{codes}.SH FILES
.TP
\\fI/etc/batch\\-export\\-watcher/config.toml\\fR
The configuration. The example that comes with the program has every key with its default.
.TP
\\fI/etc/batch\\-export\\-watcher/batch\\-rest\\-key\\fR
The REST API key of the service, readable by root alone.
.TP
\\fI/var/lib/batch\\-export\\-watcher\\fR
Exports and state, unless the configuration names other directories.
.SH \"SEE ALSO\"
.BR systemctl (1),
.BR journalctl (1)
"
    )
}
