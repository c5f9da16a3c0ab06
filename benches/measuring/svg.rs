//! The few shapes of SVG that plots are made of. The ground is white, so that they can be read in dark surroundings too.

use std::fmt::{Arguments, Write};

/// Of what is read first.
pub const INK: &str = "#111111";
/// Of what is read next.
pub const GREY: &str = "#444444";
/// Of lines behind the others.
pub const GRID: &str = "#dddddd";
/// Colours of lines, one after the other.
pub const COLOURS: [&str; 8] = ["#0b6bcb", "#c2410c", "#15803d", "#7e22ce", "#525252", "#be185d", "#0e7490", "#a16207"];

/// A picture that is being drawn.
#[derive(Debug)]
pub struct Svg(String);

impl Svg {
    /// An empty sheet.
    pub fn new(width: f64, height: f64) -> Self {
        let mut svg = Self(String::new());
        svg.push(format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">"#
        ));
        svg.rectangle([0.0, 0.0, width, height], "#ffffff");
        svg
    }

    /// The picture as it goes into a file.
    pub fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    /// A filled rectangle: x, y, width, height.
    pub fn rectangle(&mut self, [x, y, width, height]: [f64; 4], colour: &str) {
        self.push(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"/>"#
        ));
    }

    /// A straight line from one point to another.
    pub fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], colour: &str) {
        self.push(format_args!(r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"/>"#));
    }

    /// The same, dashed.
    pub fn dashed(&mut self, [x1, y1, x2, y2]: [f64; 4], colour: &str) {
        self.push(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}" stroke-dasharray="3 3"/>"#
        ));
    }

    /// A line through points.
    pub fn polyline(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let points = list(points);
        self.push(format_args!(
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>"#
        ));
    }

    /// A filled area with these corners.
    pub fn area(&mut self, points: &[(f64, f64)], colour: &str, opacity: f64) {
        let points = list(points);
        self.push(format_args!(r#"<polygon points="{points}" fill="{colour}" fill-opacity="{opacity}"/>"#));
    }

    /// A dot.
    pub fn dot(&mut self, (x, y): (f64, f64), radius: f64, colour: &str) {
        self.push(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="{colour}"/>"#));
    }

    /// Text at a point; `anchor` is `start`, `middle` or `end`.
    pub fn text(&mut self, at: (f64, f64), anchor: &str, colour: &str, text: &str) {
        self.sized_text(at, anchor, colour, 12.0, text);
    }

    /// The same in another size.
    pub fn sized_text(&mut self, (x, y): (f64, f64), anchor: &str, colour: &str, size: f64, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let size = if (size - 12.0).abs() < f64::EPSILON { String::new() } else { format!(r#" font-size="{size}""#) };
        self.push(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}"{size}>{text}</text>"#
        ));
    }

    fn push(&mut self, line: Arguments<'_>) {
        // Writing into a String never fails.
        let _ = writeln!(self.0, "{line}");
    }
}

fn list(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}
