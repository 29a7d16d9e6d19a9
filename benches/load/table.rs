//! What was found, as the one table that is printed.

use std::fmt::Write;

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub scenario: String,
    pub figure: String,
    pub measured: String,
    /// What it is compared with, and what that was.
    pub against: String,
    pub ratio: Option<f64>,
    pub target: Option<Target>,
}

/// What a ratio, or a figure in its own unit, is to be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

/// The table as Markdown, in columns that are aligned.
pub fn render(rows: &[Row]) -> String {
    let head = [
        "scenario", "figure", "measured", "against", "ratio", "target", "",
    ]
    .map(str::to_owned);
    let cells = rows.iter().map(|row| {
        let verdict = match (row.target, row.ratio) {
            (Some(target), Some(ratio)) if target.is_met(ratio) => "met",
            (Some(_), Some(_)) => "MISSED",
            (Some(_), None) => "not measured",
            _ => "",
        };
        let target = match row.target {
            Some(Target::AtMost(limit)) => format!("≤ {limit}"),
            Some(Target::AtLeast(limit)) => format!("≥ {limit}"),
            None => String::new(),
        };
        [
            row.scenario.clone(),
            row.figure.clone(),
            row.measured.clone(),
            row.against.clone(),
            row.ratio
                .map_or(String::new(), |ratio| format!("{ratio:.2}")),
            target,
            verdict.to_owned(),
        ]
    });
    aligned(&std::iter::once(head).chain(cells).collect::<Vec<_>>())
}

/// Cells as a Markdown table whose first line is its head.
pub fn aligned<const COLUMNS: usize>(lines: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            write!(text, "| {cell:<width$} ").expect("memory");
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                write!(text, "|{}", "-".repeat(width + 2)).expect("memory");
            }
            text.push_str("|\n");
        }
    }
    text
}
