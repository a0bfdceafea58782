//! Aligned columns for people. Programs read `-o json`.

use std::fmt;

/// Blanks between columns.
const GAP: usize = 2;

/// A table with a heading. Columns are as wide as their widest cell; nothing is cut.
#[derive(Clone, Debug)]
pub(super) struct Table {
    columns: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(super) fn new(heading: &[&str]) -> Self {
        let heading: Vec<String> = heading.iter().map(|&name| name.to_owned()).collect();
        Self { columns: heading.len(), rows: vec![heading] }
    }

    /// Adds a row. An empty cell shows as `-`, a control character as `�`: cells quote files and peers.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<String> = cells.into_iter().map(|cell| printable(&cell)).collect();
        row.resize(self.columns, "-".to_owned());
        self.rows.push(row);
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

/// A cell as it is safe to show on a terminal.
pub(super) fn printable(cell: &str) -> String {
    if cell.is_empty() {
        return "-".to_owned();
    }
    cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.columns).map(|column| self.width(column) + GAP).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths);
            let line: String = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_without_blanks() {
        let mut table = Table::new(&["NAME", "REACH"]);
        table.row(["us-east".to_owned(), "up".to_owned()]);
        table.row(["é".to_owned()]);
        table.row(["a\x1b[31m".to_owned(), String::new()]);
        assert_eq!(table.to_string(), "NAME     REACH\nus-east  up\né        -\na\u{fffd}[31m   -\n");
    }
}
