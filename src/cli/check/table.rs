//! The table that `check` prints: a row per step, and below it what there is to say: for one that failed, why, and what to
//! do.

use std::io::{self, Write};

#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    cells: [String; 3],
    outcome: Outcome,
}

/// How a step ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Passed,
    /// Passed, and this is worth knowing.
    Noted(String),
    /// Passed, but it will not for long. With reason and remedy.
    Warned(String),
    /// With reason and remedy.
    Failed(String),
    /// With the reason.
    Skipped(String),
}

impl Outcome {
    pub(super) fn of<T, E: std::fmt::Display>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Passed,
            Err(error) => Self::Failed(error.to_string()),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Passed | Self::Noted(_) => "ok",
            Self::Warned(_) => "WARNING",
            Self::Failed(_) => "FAILED",
            Self::Skipped(_) => "skipped",
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Passed => None,
            Self::Noted(reason) | Self::Warned(reason) | Self::Failed(reason) | Self::Skipped(reason) => Some(reason),
        }
    }
}

impl Table {
    pub(super) fn add(&mut self, registry: &str, host: &str, step: &str, outcome: Outcome) {
        self.rows.push(Row { cells: [registry, host, step].map(str::to_owned), outcome });
    }

    pub(super) fn has_failures(&self) -> bool {
        self.rows.iter().any(|row| matches!(row.outcome, Outcome::Failed(_)))
    }

    pub(super) fn print(&self, output: &mut impl Write) -> io::Result<()> {
        let titles = ["REGISTRY", "HOST", "STEP"];
        let widths: Vec<usize> = titles
            .iter()
            .enumerate()
            .map(|(column, title)| {
                self.rows.iter().map(|row| row.cells[column].chars().count()).max().unwrap_or(0).max(title.len())
            })
            .collect();
        let line = |[registry, host, step]: [&str; 3], result: &str| {
            let (first, second, third) = (widths[0], widths[1], widths[2]);
            format!("{registry:first$}  {host:second$}  {step:third$}  {result}\n")
        };
        let mut text = line(titles, "RESULT");
        for Row { cells: [registry, host, step], outcome } in &self.rows {
            text.push_str(&line([registry, host, step], outcome.word()));
            if let Some(reason) = outcome.reason() {
                text.push_str("    ");
                text.push_str(reason);
                text.push('\n');
            }
        }
        output.write_all(text.as_bytes())
    }
}
