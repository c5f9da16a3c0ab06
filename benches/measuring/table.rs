//! Tables in Markdown, also readable as they are.

use std::fmt;

/// A heading and rows of cells.
#[derive(Clone, Debug)]
pub struct Table {
    title: &'static str,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// No rows yet. The first column is of words, the others are of numbers.
    pub fn new(title: &'static str, columns: &[&str]) -> Self {
        Self { title, rows: vec![columns.iter().map(|column| (*column).to_owned()).collect()] }
    }

    /// Adds a row, a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
                .max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        writeln!(formatter, "\n{}\n", self.title)?;
        for (number, row) in self.rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 {
                    write!(formatter, "| {cell:<width$} ")?;
                } else {
                    write!(formatter, "| {cell:>width$} ")?;
                }
            }
            writeln!(formatter, "|")?;
            if number == 0 {
                let line = widths.iter().enumerate().map(|(column, width)| {
                    let dashes = "-".repeat(*width);
                    if column == 0 { format!("| {dashes} ") } else { format!("| {}: ", &dashes[1..]) }
                });
                writeln!(formatter, "{}|", line.collect::<String>())?;
            }
        }
        Ok(())
    }
}
