//! Tables and short texts for a terminal, never wider than [`WIDTH`].

use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};

/// What fits a terminal beside another window.
pub const WIDTH: usize = 100;
/// Between two columns.
const GAP: &str = "  ";

/// What a cell says about the world. Only shown on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Warn,
    Bad,
    Faint,
}

/// Whether to colour: a property of where the text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Colour,
    Off,
}

impl Paint {
    /// Colours on a terminal, unless `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
        if terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) {
            Self::Colour
        } else {
            Self::Off
        }
    }

    pub fn on(self, text: &str, tone: Tone) -> String {
        let code = match tone {
            _ if self == Self::Off => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Good => 32,
            Tone::Warn => 33,
            Tone::Bad => 31,
            Tone::Faint => 2,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
}

impl Cell {
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }
}

/// Rows under a header. When it would be too wide, the widest column gives way first; then columns are left out from the
/// right, before a name or a key that people copy is cut.
#[derive(Debug)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    whole: &'static [&'static str],
}

impl Table {
    pub fn new(header: impl Into<Vec<&'static str>>) -> Self {
        Self { header: header.into(), rows: Vec::new(), whole: &[] }
    }

    /// These columns are never cut as long as others can give way.
    pub fn whole(mut self, columns: &'static [&'static str]) -> Self {
        self.whole = columns;
        self
    }

    /// Without the columns in which no row says anything.
    pub fn without_empty(mut self) -> Self {
        let said: Vec<bool> =
            (0..self.header.len()).map(|index| self.rows.iter().any(|row| !row[index].text.is_empty())).collect();
        let mut keep = said.iter();
        self.header.retain(|_| *keep.next().unwrap_or(&true));
        for row in &mut self.rows {
            let mut keep = said.iter();
            row.retain(|_| *keep.next().unwrap_or(&true));
        }
        self
    }

    /// A row with one cell for each column; missing ones stay empty.
    pub fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        let mut cells = cells.into();
        cells.resize(self.header.len(), Cell::default());
        self.rows.push(cells);
    }

    pub fn render(&self, paint: Paint) -> String {
        let widths = self.widths();
        let mut out = String::new();
        let header: Vec<Cell> = self.header.iter().map(|text| Cell::toned(*text, Tone::Faint)).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if index > 0 {
                    line.push_str(GAP);
                }
                let text = shorten(&cell.text, *width);
                let padding = width - length(&text);
                line.push_str(&paint.on(&text, cell.tone));
                line.extend(std::iter::repeat_n(' ', padding));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.header.iter().map(|text| length(text)).collect();
        let floor = widths.clone();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(length(&cell.text));
            }
        }
        let too_wide =
            |widths: &[usize]| widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1) > WIDTH;
        let is_whole = |index: usize| self.whole.contains(&self.header[index]);
        while too_wide(&widths) {
            let cut = |whole: bool| {
                let may = |index: &usize| widths[*index] > floor[*index] && (whole || !is_whole(*index));
                (0..widths.len()).filter(may).max_by_key(|index| widths[*index])
            };
            if let Some(widest) = cut(false) {
                widths[widest] -= 1;
            } else if !is_whole(widths.len() - 1) {
                // `render` prints as many columns as there are widths.
                widths.pop();
            } else if let Some(widest) = cut(true) {
                widths[widest] -= 1;
            } else {
                break;
            }
        }
        widths
    }
}

/// Characters, which is what a terminal's columns are for the texts we print.
pub fn length(text: &str) -> usize {
    text.chars().count()
}

/// `text` in at most `width` characters.
pub fn shorten(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A paragraph in lines of at most `width` characters, broken at spaces where there are any.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word = word;
        if !line.is_empty() && length(&line) + 1 + length(word) > width {
            lines.push(std::mem::take(&mut line));
        }
        while length(word) > width {
            let cut = word.char_indices().nth(width).map_or(word.len(), |(index, _)| index);
            lines.push(word[..cut].to_owned());
            word = &word[cut..];
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// `label   text`, the text wrapped and aligned under itself.
pub fn fact(out: &mut String, label: &str, text: &str, tone: Tone, paint: Paint) {
    const LABEL: usize = 11;
    for (index, line) in wrap(text, WIDTH - LABEL).iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        let _ = writeln!(out, "{label:<LABEL$}{}", paint.on(line, tone));
    }
}

/// `45s`, `12m`, `3h20m`, `5d`: two units where the second one matters.
pub fn span(delta: TimeDelta) -> String {
    let seconds = delta.num_seconds().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => format!("{minutes}m{:02}s", seconds % 60),
        () if hours < 2 => format!("{minutes}m"),
        () if days < 2 => format!("{hours}h{:02}m", minutes % 60),
        () => format!("{days}d"),
    }
}

pub fn ago(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("{} ago", span(now - at))
}

/// `512 B`, `12.3 MiB`.
pub fn bytes(count: i64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // One decimal is all that is shown: exactness past 2^53 bytes is no loss.
    #[allow(clippy::cast_precision_loss)]
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `[########............]  42%`
pub fn bar(percent: i32) -> String {
    const CELLS: usize = 30;
    let percent = usize::try_from(percent.clamp(0, 100)).unwrap_or(0);
    let full = CELLS * percent / 100;
    format!("[{}{}] {percent:>3}%", "#".repeat(full), ".".repeat(CELLS - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_never_gets_wider_than_a_hundred_columns() {
        let mut table = Table::new(["NAME", "PHASE", "MESSAGE"]);
        table.row(["fern".into(), Cell::toned("Running", Tone::Good), "a long story ".repeat(20).into()]);
        let text = table.render(Paint::Off);
        assert!(text.lines().all(|line| length(line) <= WIDTH), "{text}");
        assert!(text.contains('…'), "what was cut is marked: {text}");
        assert!(text.contains("Running"), "short columns stay whole");
    }

    #[test]
    fn a_name_that_people_copy_stays_whole_and_the_last_columns_give_way() {
        let name = "n".repeat(63);
        let mut table = Table::new(["NAME", "PHASE", "BEGAN", "MESSAGE"]).whole(&["NAME"]);
        table.row([name.clone().into(), "Running".into(), "x".repeat(20).into(), "a long story ".repeat(9).into()]);
        let text = table.render(Paint::Off);
        assert!(text.contains(&name) && text.contains("Running"), "{text}");
        assert!(text.lines().all(|line| length(line) <= WIDTH), "{text}");
        let mut table = Table::new(["NAMESPACE", "NAME", "MESSAGE"]).whole(&["NAMESPACE", "NAME"]);
        table.row([name.clone().into(), name.into(), "x".into()]);
        assert!(table.render(Paint::Off).lines().all(|line| length(line) <= WIDTH), "nothing is wider than the screen");
    }

    #[test]
    fn a_column_that_says_nothing_can_be_left_out() {
        let mut table = Table::new(["NAME", "APPLIED", "STATE"]);
        table.row(["fern-0".into(), "".into(), "Active".into()]);
        assert_eq!(table.without_empty().render(Paint::Off), "NAME    STATE\nfern-0  Active\n");
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let mut table = Table::new(["A", "B"]);
        table.row([Cell::toned("x", Tone::Bad), "right".into()]);
        table.row([Cell::from("longer"), "right".into()]);
        let painted = table.render(Paint::Colour).replace("\x1b[31m", "").replace("\x1b[2m", "").replace("\x1b[0m", "");
        assert_eq!(painted, table.render(Paint::Off));
    }

    #[test]
    fn spans_read_as_people_say_them() {
        for (seconds, text) in
            [(-5, "0s"), (45, "45s"), (125, "2m05s"), (3600, "60m"), (12_000, "3h20m"), (432_000, "5d")]
        {
            assert_eq!(span(TimeDelta::seconds(seconds)), text);
        }
    }

    #[test]
    fn sizes_have_one_decimal_and_a_unit() {
        for (count, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (12_897_485, "12.3 MiB")] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_long_word_is_broken_rather_than_printed_past_the_edge() {
        assert_eq!(wrap("ab cdefgh i", 4), ["ab", "cdef", "gh i"]);
    }

    #[test]
    fn a_progress_bar_has_the_same_length_at_any_percentage() {
        assert_eq!(bar(0).len(), bar(100).len());
        assert_eq!(bar(150), bar(100));
    }
}
