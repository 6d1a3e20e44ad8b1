//! Whether one command of a document can be right: its program, its options, the files and names
//! that it speaks of.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use batch_export_watcher::cli::Cli;
use clap::Parser as _;
use clap::error::ErrorKind;

use super::root;

const PROGRAM: &str = "batch-export-watcher";
const DEPLOYMENT: &str = include_str!("../../../config/kubernetes/deployment.yaml");
const CARGO: &str = include_str!("../../../Cargo.toml");
const CARGO_CONFIG: &str = include_str!("../../../.cargo/config.toml");
const COMPOSE: &str = include_str!("../../../config/compose.yaml");
const DOCKERFILE: &str = include_str!("../../../Dockerfile");
const LOG_EVENTS: &str = include_str!("../../../docs/log-events.md");
const XTASK: &str = include_str!("../../../xtask/src/main.rs");

/// Programs of the system, whose words are not checked but for the files that they name.
const SYSTEM: [&str; 11] =
    ["cat", "cd", "curl", "dpkg", "grep", "groupadd", "jq", "mkdir", "rpm", "umask", "usermod"];
/// Files that the reader creates.
const CREATED: [&str; 1] = ["batch-rest-key"];

type Verdict = Result<(), String>;

/// Says what is wrong with a command, or nothing.
pub(super) fn check(words: &[String]) -> Verdict {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let is_assignment = |word: &&&str| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        })
    };
    let assignments = words.iter().take_while(is_assignment).count();
    command(&words[assignments..])
}

fn command(words: &[&str]) -> Verdict {
    let Some((&program, arguments)) = words.split_first() else { return Ok(()) };
    for word in arguments {
        repository_path(word)?;
    }
    match program {
        "sudo" => command(arguments),
        _ if is_own(program) => own(arguments),
        "cargo" => cargo(arguments),
        "docker" | "podman" => docker(arguments),
        "kubectl" => kubectl(arguments),
        "systemctl" => systemctl(arguments),
        "systemd-run" => own(after_program(arguments).ok_or("it runs nothing of ours")?),
        "systemd-sysusers" => {
            exists(&format!("systemd/{}", arguments.join("").replace(".conf", ".sysusers")))
        }
        "journalctl" => journalctl(arguments),
        "cp" | "install" => sources(arguments),
        "python3" => exists(arguments.first().ok_or("no script")?),
        _ if SYSTEM.contains(&program) => Ok(()),
        _ if program.contains('/') && !program.starts_with('/') => script(program),
        _ => Err("no check is written for this program".to_owned()),
    }
}

fn is_own(word: &str) -> bool {
    word.rsplit('/').next() == Some(PROGRAM)
}

/// The arguments after the first word that is this program.
fn after_program<'a, 'b>(words: &'a [&'b str]) -> Option<&'a [&'b str]> {
    words.iter().position(|word| is_own(word)).map(|at| &words[at + 1..])
}

/// This program's own arguments, by its own parser.
fn own(arguments: &[&str]) -> Verdict {
    match Cli::try_parse_from(std::iter::once(&PROGRAM).chain(arguments)) {
        Ok(_) => Ok(()),
        Err(error)
            if [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion].contains(&error.kind()) =>
        {
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn exists(path: &str) -> Verdict {
    if root().join(path).exists() { Ok(()) } else { Err(format!("{path} does not exist")) }
}

fn script(path: &str) -> Verdict {
    let metadata = root().join(path).metadata().map_err(|error| format!("{path}: {error}"))?;
    let runs = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    if runs { Ok(()) } else { Err(format!("{path} cannot be executed")) }
}

/// A word that begins with a folder of the project is a path there.
fn repository_path(word: &str) -> Verdict {
    let first = word.split_once('/').map_or("", |(first, _)| first);
    if first.is_empty() || first == "target" || !root().join(first).is_dir() {
        return Ok(());
    }
    exists(word)
}

/// What `cp` and `install` read is there, built before, or made by the reader.
fn sources(arguments: &[&str]) -> Verdict {
    if arguments.iter().any(|word| ["-d", "--directory"].contains(word)) {
        return Ok(());
    }
    let mut operands = Vec::new();
    let mut words = arguments.iter();
    while let Some(&word) = words.next() {
        match word {
            "-m" | "-o" | "-g" => {
                words.next();
            }
            _ if word.starts_with('-') => {}
            _ => operands.push(word),
        }
    }
    operands.pop().ok_or("no destination")?;
    for source in operands {
        if !source.starts_with("target/") && !CREATED.contains(&source) {
            exists(source)?;
        }
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Verdict {
    let (&subcommand, arguments) = arguments.split_first().ok_or("no subcommand")?;
    let has_section = |section: &str| match CARGO.contains(section) {
        true => Ok(()),
        false => Err(format!("{section} is not in Cargo.toml")),
    };
    match subcommand {
        "deb" => return has_section("[package.metadata.deb]"),
        "generate-rpm" => return has_section("[package.metadata.generate-rpm]"),
        "xtask" => {
            let task = arguments.first().copied().unwrap_or_default();
            let mut variant = task.to_owned();
            variant.get_mut(..1).into_iter().for_each(str::make_ascii_uppercase);
            let known = CARGO_CONFIG.contains("\nxtask = ")
                && !task.is_empty()
                && XTASK.contains(&format!("\n    {variant} {{"));
            return if known { Ok(()) } else { Err(format!("{task} is not a task of xtask")) };
        }
        "bench" | "build" | "fetch" | "install" | "run" | "test" => {}
        _ => return Err(format!("no check is written for cargo {subcommand}")),
    }
    let at = arguments.iter().position(|word| *word == "--").unwrap_or(arguments.len());
    let (before, after) = (&arguments[..at], arguments.get(at + 1..).unwrap_or_default());
    let mut words = before.iter();
    let mut filters = Vec::new();
    while let Some(&word) = words.next() {
        match word {
            "--locked" | "--release" | "--workspace" | "--all-targets" | "--lib" => {}
            "--test" | "--bench" => {
                let name = words.next().ok_or("no target")?;
                has_section(&format!("[[{}]]\nname = \"{name}\"", &word[2..]))?;
            }
            "--example" => exists(&format!("examples/{}.rs", words.next().ok_or("no target")?))?,
            "--path" => exists(&format!("{}/Cargo.toml", words.next().ok_or("no path")?))?,
            _ if word.starts_with('-') => {
                return Err(format!("no check is written for {word} of cargo"));
            }
            _ => filters.push(word),
        }
    }
    match subcommand {
        "run" => own(after),
        "test" => test(&filters, after),
        _ => Ok(()),
    }
}

/// The filters of `cargo test` select tests of this binary.
fn test(filters: &[&str], after: &[&str]) -> Verdict {
    let (options, more): (Vec<_>, Vec<_>) = after.iter().partition(|word| word.starts_with('-'));
    for option in &options {
        if !["--ignored", "--include-ignored", "--nocapture", "--exact"].contains(option) {
            return Err(format!("no check is written for {option} of a test"));
        }
    }
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut list = Command::new(this);
    list.args(["--list", "--format", "terse"]);
    list.args(options.iter().filter(|option| **option == "--ignored"));
    let output = list.output().map_err(|error| error.to_string())?;
    let tests = String::from_utf8_lossy(&output.stdout);
    for filter in filters.iter().copied().chain(more) {
        if !tests.lines().any(|test| test.contains(filter)) {
            return Err(format!("no test is called {filter}"));
        }
    }
    Ok(())
}

fn docker(arguments: &[&str]) -> Verdict {
    match *arguments {
        ["build", .., folder] => {
            exists(&format!("{folder}/Dockerfile"))?;
            for pair in arguments.windows(2).filter(|pair| pair[0] == "--build-arg") {
                let name = pair[1].split('=').next().unwrap_or(pair[1]);
                if !DOCKERFILE.contains(&format!("\nARG {name}=")) {
                    return Err(format!("the Dockerfile has no ARG {name}"));
                }
            }
            Ok(())
        }
        ["compose", verb @ ("run" | "exec"), ref rest @ ..] => {
            let at = rest.iter().position(|word| !word.starts_with('-')).ok_or("no service")?;
            if !COMPOSE.contains(&format!("\nservices:\n  {}:\n", rest[at])) {
                return Err(format!("{} is not a service of compose.yaml", rest[at]));
            }
            match verb {
                "run" => own(&rest[at + 1..]),
                // There is no shell and no search path.
                _ if rest.get(at + 1).is_some_and(|path| {
                    DOCKERFILE.contains(&format!("\nENTRYPOINT [\"{path}\"]"))
                }) =>
                {
                    own(&rest[at + 2..])
                }
                _ => Err("this is not the program's path in the image".to_owned()),
            }
        }
        ["compose", "up", ..] => Ok(()),
        ["run", .., PROGRAM] => Ok(()),
        _ => Err("no check is written for this".to_owned()),
    }
}

fn kubectl(arguments: &[&str]) -> Verdict {
    for pair in arguments.windows(2).filter(|pair| pair[0] == "-k") {
        exists(&format!("{}/kustomization.yaml", pair[1]))?;
    }
    for name in arguments.iter().filter_map(|word| word.strip_prefix("deployment/")) {
        if !DEPLOYMENT.contains(&format!("\n  name: {name}\n")) {
            return Err(format!("there is no deployment {name}"));
        }
    }
    match arguments.first() {
        Some(&("apply" | "create" | "logs")) => Ok(()),
        _ => Err("no check is written for this".to_owned()),
    }
}

fn unit(name: &str) -> Verdict {
    exists(&format!("systemd/{}.service", name.trim_end_matches(".service")))
}

fn systemctl(arguments: &[&str]) -> Verdict {
    let mut words = arguments.iter().filter(|word| !word.starts_with('-'));
    match words.next() {
        Some(&"daemon-reload") => Ok(()),
        Some(&("edit" | "enable" | "reload" | "restart" | "start" | "status" | "stop")) => {
            unit(words.next().ok_or("no unit")?)
        }
        verb => Err(format!("no check is written for {verb:?}")),
    }
}

/// Units, and fields that the log has.
fn journalctl(arguments: &[&str]) -> Verdict {
    for pair in arguments.windows(2).filter(|pair| pair[0] == "-u") {
        unit(pair[1])?;
    }
    let documented = |name: &str| LOG_EVENTS.contains(&format!("`{name}`"));
    let fields = arguments.iter().filter(|word| !word.starts_with('-') && word.contains('='));
    for (field, value) in fields.filter_map(|word| word.split_once('=')) {
        if !documented(&field.to_lowercase()) || (field == "EVENT" && !documented(value)) {
            return Err(format!("the log has no {field}={value}"));
        }
    }
    let shown = arguments.iter().filter_map(|word| word.strip_prefix("--output-fields="));
    for field in shown.flat_map(|fields| fields.split(',')) {
        if !documented(&field.to_lowercase()) {
            return Err(format!("the log has no field {field}"));
        }
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_found() {
    let verdict = |line: &str| {
        let commands = super::shell::commands(line).expect("well-formed");
        commands.iter().try_for_each(|words| check(words))
    };
    for right in [
        "batch-export-watcher run --exit-when-settled --deadline 6h",
        "RUST_LOG=debug batch-export-watcher status --json --watch",
        "cargo run --release -- demo",
        "cargo test --test it docs",
        "sudo install -m 0400 batch-rest-key watcher/",
        "systemctl restart batch-export-watcher",
        "docker compose exec batch-export-watcher /usr/bin/batch-export-watcher status",
    ] {
        assert_eq!(verdict(right), Ok(()), "{right}");
    }
    for wrong in [
        "batch-export-watcher run --deadline 6h",
        "batch-export-watcher stats",
        "batch-export-watcher status --chek",
        "cargo run -- dmeo",
        "cargo bench --bench transfers",
        "cargo test --test it no::such::test",
        "cargo test --test its",
        "cargo xtask asset",
        "cargo instal --path .",
        "cp config/compose.yml watcher/",
        "install -m 0644 nothing.conf /etc/nothing.conf",
        "tests/long/walk.sh",
        "./Cargo.toml",
        "systemctl restart batch-export-watchers",
        "systemctl reloadd batch-export-watcher",
        "journalctl EVENT=export_done",
        "docker build --build-arg BASE=x .",
        "docker compose exec batch-export-watcher batch-export-watcher status",
        "docker compose run --rm batch-export-watchers check",
        "kubectl apply -k config/kube",
        "kubectl logs deployment/watcher",
        "systemd-run --pipe batch-export-watcher check --prob",
        "(umask 077; catt >key)",
    ] {
        assert!(verdict(wrong).is_err(), "{wrong}");
    }
}
