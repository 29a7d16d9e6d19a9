//! Curves as SVG: each in a frame of its own, from zero up, over one thing that grows by factors.

use std::fmt::Write;

pub struct Curve {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// The size of a frame, and what is left around it for text.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 200.0;
const MARGIN: f64 = 40.0;

/// A frame for each curve, side by side. Along the frame stands each value that was measured, at even distances.
pub fn svg(varied: &str, curves: &[Curve]) -> String {
    let frame = WIDTH + 2.0 * MARGIN;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        frame * curves.len() as f64,
        HEIGHT + 2.0 * MARGIN
    );
    for (number, curve) in curves.iter().enumerate() {
        let most = curve
            .points
            .iter()
            .map(|point| point.1)
            .fold(f64::MIN_POSITIVE, f64::max)
            * 1.1;
        let step = WIDTH / (curve.points.len().max(2) - 1) as f64;
        let at = |index: usize, value: f64| (index as f64 * step, HEIGHT - value / most * HEIGHT);
        let left = frame * number as f64 + MARGIN;
        let mut line = String::new();
        write!(text, "<g transform=\"translate({left},{MARGIN})\">\n<text y=\"-12\" font-weight=\"bold\">{}</text>\n", curve.name)
            .expect("memory");
        writeln!(
            text,
            "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#bbb\"/>"
        )
        .expect("memory");
        for (index, (value, height)) in curve.points.iter().enumerate() {
            let (x, y) = at(index, *height);
            write!(line, "{x:.1},{y:.1} ").expect("memory");
            write!(
                text,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#06c\"/>\n\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{height:.2}</text>\n\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>\n",
                y - 8.0,
                HEIGHT + 14.0
            )
            .expect("memory");
        }
        write!(
            text,
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"#06c\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{varied}</text>\n</g>\n",
            WIDTH / 2.0,
            HEIGHT + 30.0
        )
        .expect("memory");
    }
    text.push_str("</svg>\n");
    text
}
