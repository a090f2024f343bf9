//! The README as tests read it: the commands that it shows, and its tour.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::tidy;
use stampede::services::SERVICES;

/// Commands of the script, which the executable does not know.
const OF_THE_SCRIPT: [&str; 2] = ["test", "soak"];

fn text() -> String {
    std::fs::read_to_string(tidy::root().join("README.md")).expect("the README is there")
}

/// Every command that a code block or the table of commands shows, and each of its options behind it: `rush`,
/// `rush --kill`.
pub fn commands() -> BTreeSet<String> {
    let text = text();
    let mut shown = BTreeSet::new();
    for line in blocks(&text).iter().flat_map(|block| block.lines()) {
        if let Some(line) = line.strip_prefix("./stampede ") {
            shown.extend(parts(line.split('#').next().unwrap_or_default()));
        }
    }
    shown.extend(table(&text).iter().flat_map(|(commands, options)| {
        let with = |command: &String| options.iter().map(|option| format!("{command} {option}")).collect::<Vec<_>>();
        commands.iter().flat_map(|command| [vec![command.clone()], with(command)].concat()).collect::<Vec<_>>()
    }));
    shown.retain(|command| !OF_THE_SCRIPT.iter().any(|own| command.starts_with(own)));
    shown
}

/// The commands and the options of a command line, as [`commands`] has them.
pub fn parts(line: &str) -> Vec<String> {
    let (mut plain, mut options) = (Vec::new(), Vec::new());
    let mut words = line.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "--data-dir" | "--config" => {
                options.push(word);
                words.next();
            }
            option if option.starts_with("--") => options.push(option),
            word => plain.push(word.to_owned()),
        }
    }
    let is_service = |word: &str| SERVICES.iter().any(|service| service.name == word);
    let commands = match plain.as_slice() {
        [] => return Vec::new(),
        [group, command, ..] if group == "bench" || group == "events" => vec![format!("{group} {command}")],
        [first, ..] if is_service(first) => plain,
        [first, ..] => vec![first.clone()],
    };
    let with = |command: &String| options.iter().map(|option| format!("{command} {option}")).collect::<Vec<_>>();
    commands.iter().flat_map(|command| [vec![command.clone()], with(command)].concat()).collect()
}

/// The rows of the table of commands: the commands of each, and the options that it explains.
fn table(text: &str) -> Vec<(Vec<String>, Vec<String>)> {
    let section = text.split("\n## Commands\n").nth(1).expect("there is a section").split("\n## ").next();
    let rows = section.unwrap_or_default().lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let line = line.replace("\\|", "/");
        let mut cells = line.trim_matches('|').split('|');
        let mut code = || cells.next().unwrap_or_default().split('`').skip(1).step_by(2).map(str::to_owned);
        let commands: Vec<String> = code().flat_map(|shown| alternatives(&shown)).collect();
        let options = code().filter(|shown| shown.starts_with("--"));
        (commands, options.map(|option| option.split(' ').next().unwrap_or_default().to_owned()).collect())
    };
    rows.map(row).collect()
}

/// `events stats/parked` is two commands; `healthcheck URL` is `healthcheck`.
fn alternatives(shown: &str) -> Vec<String> {
    match shown.split_once(' ') {
        Some((group, last)) if last.chars().all(|letter| letter.is_ascii_lowercase() || letter == '/') => {
            last.split('/').map(|command| format!("{group} {command}")).collect()
        }
        Some((command, _)) => vec![command.to_owned()],
        None => vec![shown.to_owned()],
    }
}

/// The code blocks of the shell.
fn blocks(text: &str) -> Vec<&str> {
    text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

/// The blocks of the tour.
pub fn tour() -> Vec<String> {
    let text = text();
    let section = text.split("\n## A tour").nth(1).expect("there is a tour").split("\n## ").next().unwrap_or_default();
    let blocks: Vec<String> = blocks(section).into_iter().map(str::to_owned).collect();
    assert_eq!(blocks.len(), TOUR.len(), "say in `TOUR` what the new block of the tour prints");
    blocks
}

/// What each block of the tour prints, in its last command.
pub const TOUR: [&[&str]; 16] = [
    &[],
    &["\"userId\""],
    &["HOT-DROP-1", "LAST-ONE-1"],
    &["201 Created"],
    &["201 Created", "idempotent-replayed: true"],
    &["422", "IDEMPOTENCY_KEY_REUSED"],
    &["409", "OUT_OF_STOCK"],
    &["201 Created"],
    &["200 OK", "\"PAID\""],
    &["\"REFUNDED\""],
    &["\"REFUNDED\"", "\"ORDER_CREATED\""],
    &["stampede_orders_total"],
    &["201 Created", "\"couponIssueId\""],
    &["\"passToken\""],
    &["201 Created", "\"seats\":[\"S-300\"]"],
    &["event: snapshot", "\"OPEN\"", "\"orders\":[{\"orderId\":"],
];

/// A shell that runs the tour, block by block.
pub struct Tour {
    shell: Child,
    printed: Lines<BufReader<ChildStdout>>,
    api: String,
}

const END: &str = "--- end of the block";
/// What the tour sleeps for is asked for again instead, as often as this.
const TRIES: usize = 600;

impl Tour {
    /// `api` is `http://host:port`, and stands for the one in the README.
    pub async fn start(api: &str) -> Tour {
        let mut shell = Command::new("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("there is a shell");
        let printed = BufReader::new(shell.stdout.take().expect("it is piped")).lines();
        let mut tour = Tour { shell, printed, api: api.to_owned() };
        tour.say("exec 2>&1").await;
        tour
    }

    /// Runs one block, and returns what its last part printed: what follows a `sleep`, or all of it. That is repeated
    /// until it prints all of `expected`.
    pub async fn run(&mut self, block: &str, expected: &[&str]) -> String {
        let block = block.replace("http://127.0.0.1:8080", &self.api);
        let mut parts = block.split("; sleep ");
        let mut last = parts.next().unwrap_or_default().to_owned();
        for next in parts {
            self.say(&last).await;
            // Behind the number of seconds.
            last = next.split_once('\n').map_or_else(String::new, |(_, rest)| rest.to_owned());
        }
        let is_repeated = ["; sleep ", "notifications", "/stream"].iter().any(|mark| block.contains(mark));
        let mut printed = self.say(&last).await;
        for _ in 0..TRIES {
            if !is_repeated || expected.iter().all(|text| printed.contains(text)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            printed = self.say(&last).await;
        }
        printed
    }

    async fn say(&mut self, commands: &str) -> String {
        let stdin = self.shell.stdin.as_mut().expect("it is piped");
        stdin.write_all(format!("{commands}\necho; echo '{END}'\n").as_bytes()).await.expect("the shell listens");
        let mut printed = String::new();
        while let Some(line) = self.printed.next_line().await.expect("it prints text") {
            if line == END {
                return printed;
            }
            printed += &line;
            printed.push('\n');
        }
        panic!("the shell ended: {printed}")
    }
}
