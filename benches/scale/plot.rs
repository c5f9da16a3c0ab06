//! A small plot: several lines over the number of namespaces, both axes logarithmic.

use std::fmt::Write;

/// A line with its name.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: &'static str,
    /// Number of namespaces and value, both above zero.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 230.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 5] = ["#0b6bcb", "#c2410c", "#15803d", "#7e22ce", "#525252"];

/// The plot as SVG.
pub fn svg(title: &str, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| line.points.iter());
    let across = Axis::over(all().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let up = Axis::over(all().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
<text x="{LEFT}" y="22" font-size="14" fill="#111111">{title}</text>
"##
    );
    for value in across.decades() {
        let x = across.at(value);
        let (top, bottom, label) = (TOP, HEIGHT - BOTTOM, HEIGHT - BOTTOM + 18.0);
        grid(&mut svg, [x, top, x, bottom], (x, label), "middle", &number(value));
    }
    for value in up.decades() {
        let y = up.at(value);
        grid(&mut svg, [LEFT, y, WIDTH - RIGHT, y], (LEFT - 8.0, y + 4.0), "end", &number(value));
    }
    let (middle, bottom) = (f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 12.0);
    label(&mut svg, (middle, bottom), "middle", "#111111", "namespaces with a pull secret");
    for (number, (line, colour)) in lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let points: Vec<(f64, f64)> = line.points.iter().map(|point| (across.at(point.0), up.at(point.1))).collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        push(
            &mut svg,
            format_args!(r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#, path.join(" ")),
        );
        for (x, y) in points {
            push(&mut svg, format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{colour}"/>"#));
        }
        let (x, y) = (WIDTH - RIGHT + 16.0, TOP + 14.0 + 22.0 * number as f64);
        push(&mut svg, format_args!(r#"<circle cx="{x}" cy="{:.1}" r="4" fill="{colour}"/>"#, y - 4.0));
        label(&mut svg, (x + 12.0, y), "start", colour, line.name);
    }
    svg.push_str("</svg>\n");
    svg
}

/// A logarithmic axis over whole decades.
struct Axis {
    first: f64,
    last: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (lowest, highest) = values
            .fold((f64::MAX, f64::MIN_POSITIVE), |(lowest, highest), value| (lowest.min(value), highest.max(value)));
        let first = lowest.min(highest).log10().floor();
        Self { first, last: highest.log10().ceil().max(first + 1.0), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.first) / (self.last - self.first) * (self.to - self.from)
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        let (first, last) = (self.first as i32, self.last as i32);
        (first..=last).map(|exponent| 10f64.powi(exponent))
    }
}

fn number(value: f64) -> String {
    if value >= 1000.0 { format!("{},000", value / 1000.0) } else { format!("{value}") }
}

fn grid(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], at: (f64, f64), anchor: &str, text: &str) {
    push(svg, format_args!(r##"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="#dddddd"/>"##));
    label(svg, at, anchor, "#444444", text);
}

fn label(svg: &mut String, (x, y): (f64, f64), anchor: &str, colour: &str, text: &str) {
    push(svg, format_args!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{text}</text>"#));
}

fn push(svg: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing into a String never fails.
    let _ = writeln!(svg, "{line}");
}
