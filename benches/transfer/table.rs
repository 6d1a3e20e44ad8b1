//! Numbers into Markdown.

/// Median, least and most of some numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of at least one number.
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut numbers: Vec<_> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        let (&least, &most) = (numbers.first()?, numbers.last()?);
        let upper = numbers[numbers.len() / 2];
        let lower = numbers[(numbers.len() - 1) / 2];
        Some(Self { median: f64::midpoint(lower, upper), least, most })
    }
}

/// A Markdown table, its columns as wide as what is in them.
pub(crate) fn markdown(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).chain([header[column].len(), 3]).max().unwrap_or(3)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, &width)| format!("| {cell:<width$} "));
        format!("{}|\n", padded.collect::<String>())
    };
    let rule: Vec<_> = widths.iter().map(|&width| "-".repeat(width)).collect();
    let mut text = line(header.to_vec());
    text.push_str(&line(rule.iter().map(String::as_str).collect()));
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}
