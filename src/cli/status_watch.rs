//! `status --watch`: redraws the table on a terminal, or prints one document per line for programs.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::status::{Silence, json, look, terminal_look};
use super::{StatusArgs, console};
use crate::config::Environment;
use crate::exit;
use crate::status::{Stamped, table};

const INTERVAL: Duration = Duration::from_secs(1);
/// Uses the alternate screen, so that the old content comes back, without cursor and line wrap.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Signals that end the command.
struct Ends([Signal; 3]);

/// The terminal while it shows the table; dropping it restores the terminal.
struct Screen;

pub(super) async fn watch(args: &StatusArgs, environment: &Environment) -> Result<u8, u8> {
    if !args.json && !io::stdout().is_terminal() {
        console::complain(
            "--watch needs a terminal on standard output: add --json to print documents instead",
        );
        return Err(exit::USAGE);
    }
    let signals = Ends::install().and_then(|ends| Ok((ends, signal(SignalKind::window_change())?)));
    let (mut ends, mut resize) = signals.map_err(|error| {
        console::complain(&format!("cannot install the signal handlers: {error}"));
        exit::INTERNAL
    })?;
    // A faulty configuration is reported before the alternate screen hides the message.
    let mut last = look(&args.config, environment).await;
    if let Err(Silence::Words(words, exit::CONFIGURATION)) = &last {
        console::complain(words);
        return Err(exit::CONFIGURATION);
    }
    let screen = (!args.json).then(Screen::enter);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        let shown = match &screen {
            Some(screen) => screen.draw(&last),
            None => tell(&last),
        };
        // A terminal that is gone is no fault either.
        if shown.is_err() {
            let gone = if screen.is_some() { Ok(()) } else { console::written(shown) };
            return gone.map(|()| exit::DONE);
        }
        tokio::select! {
            _ = ticks.tick() => {}
            _ = resize.recv() => {}
            () = ends.come() => return Ok(exit::DONE),
        }
        last = tokio::select! {
            looked = look(&args.config, environment) => looked,
            () = ends.come() => return Ok(exit::DONE),
        };
    }
}

/// Prints one document on one line. If there is none, the reason goes to standard error.
fn tell(looked: &Result<Stamped, Silence>) -> io::Result<()> {
    match looked {
        Ok(status) => console::write(&json(status)),
        Err(silence) => {
            console::complain(&silence.words());
            Ok(())
        }
    }
}

impl Screen {
    fn enter() -> Self {
        // If the terminal is gone, the first frame finds out.
        let _ = console::write(ENTER);
        Self
    }

    /// Draws over the old content line by line, so that nothing flickers.
    fn draw(&self, looked: &Result<Stamped, Silence>) -> io::Result<()> {
        let mut lines = match looked {
            Ok(status) => table(status, terminal_look()),
            Err(silence) => silence.words().lines().map(str::to_owned).collect(),
        };
        let (_, rows) = console::size();
        if lines.len() > rows && rows > 1 {
            let hidden = lines.split_off(rows - 1).len();
            let help = "enlarge the terminal, or use status without --watch";
            lines.push(format!("… {hidden} more lines: {help}"));
        }
        console::write(&frame(&lines))
    }
}

/// Each line is erased before its text: after a text as wide as the terminal the cursor still stands
/// on the last character.
fn frame(lines: &[String]) -> String {
    let (last, others) =
        lines.split_last().map_or(("", lines), |(last, others)| (last.as_str(), others));
    let others: String = others.iter().map(|line| format!("\x1b[K{line}\r\n")).collect();
    format!("\x1b[H{others}\x1b[J{last}")
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = console::write(LEAVE);
    }
}

impl Ends {
    fn install() -> io::Result<Self> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [terminate, interrupt, hangup] = kinds.map(signal);
        Ok(Self([terminate?, interrupt?, hangup?]))
    }

    async fn come(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a terminal without line wrap shows after these frames.
    fn shown(columns: usize, frames: &[&[&str]]) -> Vec<String> {
        let mut grid = vec![vec![' '; columns]; 4];
        for lines in frames {
            let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
            let (frame, mut row, mut column) = (frame(&lines), 0, 0);
            let mut rest = frame.as_str();
            while let Some(character) = rest.chars().next() {
                if rest.starts_with("\x1b[") {
                    match rest.as_bytes()[2] {
                        b'H' => (row, column) = (0, 0),
                        b'K' => grid[row][column..].fill(' '),
                        b'J' => {
                            grid[row][column..].fill(' ');
                            grid[row + 1..].iter_mut().for_each(|line| line.fill(' '));
                        }
                        other => panic!("unknown sequence {other}"),
                    }
                    rest = &rest[3..];
                    continue;
                }
                match character {
                    '\r' => column = 0,
                    '\n' => row += 1,
                    text => {
                        grid[row][column] = text;
                        column = columns.min(column + 2) - 1;
                    }
                }
                rest = &rest[character.len_utf8()..];
            }
        }
        let text = |line: &Vec<char>| line.iter().collect::<String>().trim_end().to_owned();
        grid.iter().map(text).collect()
    }

    #[test]
    fn a_line_as_wide_as_the_terminal_keeps_its_last_character() {
        let long: &[&str] = &["12345", "abcde", "ABCDE"];
        assert_eq!(shown(5, &[long]), ["12345", "abcde", "ABCDE", ""]);
        assert_eq!(shown(5, &[long, &["1", "abcde"]]), ["1", "abcde", "", ""], "nothing is left");
        assert_eq!(shown(5, &[long, &[]]), ["", "", "", ""]);
    }
}
