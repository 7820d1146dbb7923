//! Draws wall times as an SVG file: a panel per image, a bar per tool, each panel with a scale of its own. Readable
//! on light and dark pages.

use std::fmt::Write as _;

/// One image.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Its name and size.
    pub title: String,
    /// Tools and their seconds; the first is the one that the others are compared with.
    pub bars: Vec<(String, f64)>,
}

const WIDTH: f64 = 760.0;
/// Left end of the bars, and the length of the longest.
const LEFT: f64 = 220.0;
const LONGEST: f64 = 420.0;
const BAR: f64 = 16.0;
const ROW: f64 = 24.0;
const TITLE: f64 = 34.0;
const MARGIN: f64 = 12.0;

/// Colours by class, so that the page's scheme chooses.
const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.note { fill: #59636e }
.own { fill: #0969da }
.peer { fill: #b6bfc9 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.note { fill: #9198a1 }
.own { fill: #4493f8 }
.peer { fill: #4d555f }
}";

/// The file's text. `heading` is for those who cannot see it, `note` stands below.
pub fn draw(heading: &str, note: &str, panels: &[Panel]) -> String {
    let rows: usize = panels.iter().map(|panel| panel.bars.len()).sum();
    let height = MARGIN + rows as f64 * ROW + panels.len() as f64 * TITLE + ROW + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"{0}\">\n<title>{0}</title>\n<style>{STYLE}</style>\n",
        escaped(heading)
    );
    let mut y = MARGIN;
    for panel in panels {
        y = draw_panel(&mut svg, panel, y);
    }
    let _ = writeln!(svg, "<text class=\"note\" x=\"{MARGIN}\" y=\"{}\">{}</text>", y + ROW, escaped(note));
    svg.push_str("</svg>\n");
    svg
}

/// Draws one panel from `y` on and returns where it ends. Formatting into a String cannot fail.
fn draw_panel(svg: &mut String, panel: &Panel, mut y: f64) -> f64 {
    y += TITLE;
    let title = escaped(&panel.title);
    let _ = writeln!(svg, "<text class=\"title\" x=\"{MARGIN}\" y=\"{}\">{title}</text>", y - 10.0);
    let longest = panel.bars.iter().map(|bar| bar.1).fold(f64::MIN_POSITIVE, f64::max);
    let own = panel.bars.first().map_or(0.0, |bar| bar.1);
    for (row, (name, seconds)) in panel.bars.iter().enumerate() {
        let (class, times) = match row {
            0 => ("own", String::new()),
            _ => ("peer", format!(" ({} ×)", short(seconds / own))),
        };
        let length = (seconds / longest * LONGEST).max(1.0);
        let (text, middle) = (y + BAR - 3.5, LEFT - 10.0);
        let _ = writeln!(
            svg,
            "<text x=\"{middle}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{text:.1}\">{} s{times}</text>",
            escaped(name),
            LEFT + length + 8.0,
            short(*seconds),
        );
        y += ROW;
    }
    y
}

/// Two significant digits are what such a measurement has.
fn short(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_panel() {
        let bars = vec![("a & b".to_owned(), 0.5), ("peer".to_owned(), 20.0)];
        let svg = draw("pull", "a note", &[Panel { title: "image <1>".into(), bars }]);
        assert!(svg.contains("width=\"420.0\"") && svg.contains("width=\"10.5\""), "{svg}");
        assert!(svg.contains("20 s (40 ×)") && svg.contains(">0.5 s<"), "{svg}");
        assert!(svg.contains("a &amp; b") && svg.contains("image &lt;1>"), "{svg}");
    }
}
