//! How many turns an order takes: transactions, statements, requests that share a transaction, and which statements
//! PostgreSQL spends its time on.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use diesel::sql_types;
use serde::Serialize;

use crate::audit::Ledger;

/// Statements that the report names.
const STATEMENTS_MAX: usize = 12;
/// Of a statement's text that the report shows.
const TEXT_CHARACTERS: usize = 90;

/// What the services and PostgreSQL have counted at one moment.
pub struct Counted {
    /// Times that each of our transactions has run, by its name.
    transactions: BTreeMap<String, f64>,
    /// Transactions and requests of each batch.
    batches: BTreeMap<String, Batch>,
    /// Commits of the database; up to ten seconds old.
    commits: i64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Batch {
    runs: f64,
    requests: f64,
}

/// What some orders took, each figure for one order unless it says otherwise.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Turns {
    /// None where PostgreSQL was not given the time to report them.
    pub commits: Option<f64>,
    /// Round trips to PostgreSQL, if none are pipelined. None without the extension `pg_stat_statements`.
    pub statements: Option<f64>,
    /// By the name of the transaction. Empty where the services are split.
    pub transactions: BTreeMap<String, f64>,
    /// Requests that share a transaction, on average.
    pub batch_sizes: BTreeMap<String, f64>,
    /// The most expensive ones first.
    pub expensive: Vec<Statement>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    pub calls: f64,
    /// Execution time in PostgreSQL for 1,000 orders, waiting for locks included.
    pub seconds_per_1000: f64,
    pub text: String,
}

#[derive(Debug, Clone, diesel::QueryableByName)]
pub struct Executed {
    #[diesel(sql_type = sql_types::Text)]
    query: String,
    #[diesel(sql_type = sql_types::BigInt)]
    calls: i64,
    #[diesel(sql_type = sql_types::Double)]
    ms: f64,
}

#[derive(diesel::QueryableByName)]
struct Commits {
    #[diesel(sql_type = sql_types::BigInt)]
    commits: i64,
}

/// Reads the counters. With `metrics`, the address of the one process that has all services, theirs too.
pub async fn count(ledger: &mut Ledger, metrics: Option<&str>) -> anyhow::Result<Counted> {
    let statement =
        ledger.statement("select xact_commit as commits from pg_stat_database where datname = current_database()");
    let commits: Vec<Commits> = ledger.rows(statement).await?;
    let text = match metrics {
        Some(api) => reqwest::get(format!("{api}/actuator/prometheus")).await?.error_for_status()?.text().await?,
        None => String::new(),
    };
    let sums = by_label(&text, "stampede_batch_size_sum", "batch");
    let batch = |(name, runs): (String, f64)| {
        let requests = sums.get(&name).copied().unwrap_or(0.0);
        (name, Batch { runs, requests })
    };
    Ok(Counted {
        transactions: by_label(&text, "stampede_db_tx_seconds_count", "tx"),
        batches: by_label(&text, "stampede_batch_size_count", "batch").into_iter().map(batch).collect(),
        commits: commits.iter().map(|row| row.commits).sum(),
    })
}

/// The samples of a metric, by the value of its only label.
fn by_label(text: &str, metric: &str, label: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix(metric)?.strip_prefix('{')?.split_once("} ")?;
        let name = name.strip_prefix(label)?.strip_prefix("=\"")?.strip_suffix('"')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    samples.collect()
}

/// Begins to count statements anew. False: this PostgreSQL does not count them.
pub async fn count_statements(ledger: &mut Ledger) -> bool {
    for statement in [
        "create extension if not exists pg_stat_statements with schema public",
        "select public.pg_stat_statements_reset()",
    ] {
        if ledger.execute(statement).await.is_err() {
            return false;
        }
    }
    true
}

/// The statements since then, the most expensive first.
pub async fn executed(ledger: &mut Ledger) -> anyhow::Result<Vec<Executed>> {
    ledger.rows(ledger.statement(include_str!("statements.sql"))).await
}

impl Counted {
    /// What `orders` took since `before`. Commits count only if PostgreSQL has had the time to report them.
    pub fn since(&self, before: &Counted, orders: u64, executed: Option<&[Executed]>, are_reported: bool) -> Turns {
        let orders = orders.max(1) as f64;
        let earlier = |name: &String| before.transactions.get(name).copied().unwrap_or(0.0);
        let transactions =
            self.transactions.iter().map(|(name, count)| (name.clone(), (count - earlier(name)) / orders));
        let batch_sizes = self.batches.iter().filter_map(|(name, after)| {
            let before = before.batches.get(name).copied().unwrap_or_default();
            let runs = after.runs - before.runs;
            (runs > 0.0).then(|| (name.clone(), (after.requests - before.requests) / runs))
        });
        let statement = |one: &Executed| Statement {
            calls: one.calls as f64 / orders,
            seconds_per_1000: one.ms / orders,
            text: shortened(&one.query),
        };
        Turns {
            commits: are_reported.then(|| (self.commits - before.commits) as f64 / orders),
            statements: executed.map(|all| all.iter().map(|one| one.calls as f64).sum::<f64>() / orders),
            // Loops that run a few times are not about orders.
            transactions: transactions.filter(|(_, count)| *count > 0.001).collect(),
            batch_sizes: batch_sizes.collect(),
            expensive: executed.unwrap_or_default().iter().take(STATEMENTS_MAX).map(statement).collect(),
        }
    }
}

/// One line without the legend of the parameters.
fn shortened(query: &str) -> String {
    let lines = query.lines().map(str::trim).filter(|line| !line.starts_with("--"));
    let line = lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TEXT_CHARACTERS) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line,
    }
}

impl Turns {
    pub fn write(&self, out: &mut String, clients: usize) -> fmt::Result {
        let Turns { commits, statements, transactions, batch_sizes, expensive } = self;
        let figure = |value: &Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        writeln!(
            out,
            "\n  Turns of a paid order with {clients} clients: {} commits, {} statements.",
            figure(commits),
            figure(statements)
        )?;
        if !transactions.is_empty() {
            let each = |(name, count): (&String, &f64)| format!("{name} {count:.3}");
            writeln!(out, "  Transactions: {}.", transactions.iter().map(each).collect::<Vec<_>>().join(", "))?;
            let each = |(name, size): (&String, &f64)| format!("{name} {size:.1}");
            writeln!(out, "  Requests in one: {}.", batch_sizes.iter().map(each).collect::<Vec<_>>().join(", "))?;
        }
        if expensive.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n  {:>12}{:>18}  statement", "calls/order", "s per 1,000")?;
        for Statement { calls, seconds_per_1000, text } in expensive {
            writeln!(out, "  {calls:>12.3}{seconds_per_1000:>18.3}  {text}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# TYPE stampede_batch_size histogram\n\
        stampede_batch_size_bucket{batch=\"holds\",le=\"1\"} 3\n\
        stampede_batch_size_sum{batch=\"holds\"} 60\n\
        stampede_batch_size_count{batch=\"holds\"} 4\n";

    #[test]
    fn a_metric_is_read_by_its_label() {
        let counts = by_label(METRICS, "stampede_batch_size_count", "batch");
        assert_eq!(counts, BTreeMap::from([("holds".to_owned(), 4.0)]));
    }

    #[test]
    fn turns_are_counted_for_each_order_since_the_first_look() {
        let counted = |transactions, runs, commits| Counted {
            transactions: BTreeMap::from([("place".to_owned(), transactions)]),
            batches: BTreeMap::from([("holds".to_owned(), Batch { runs, requests: 4.0 * runs })]),
            commits,
        };
        let executed = [Executed { query: "-- legend\nselect\n  1".to_owned(), calls: 300, ms: 50.0 }];
        let turns = counted(30.0, 7.0, 900).since(&counted(10.0, 2.0, 600), 100, Some(&executed), true);
        assert_eq!((turns.commits, turns.statements), (Some(3.0), Some(3.0)));
        assert_eq!((turns.transactions["place"], turns.batch_sizes["holds"]), (0.2, 4.0));
        let Statement { calls, seconds_per_1000, text } = &turns.expensive[0];
        assert_eq!((*calls, *seconds_per_1000, text.as_str()), (3.0, 0.5, "select 1"));
        let mut text = String::new();
        turns.write(&mut text, 64).unwrap();
        assert!(text.contains("3.00 commits") && text.contains("holds 4.0") && text.contains("select 1"), "{text}");
    }
}
