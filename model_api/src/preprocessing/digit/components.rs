//! Connected components of the foreground, and the selection of those that form the digit.

use super::background::ForegroundMap;
use super::histogram::Histogram;
use super::mask::{Bounds, Mask, Run};
use super::plane::{Plane, Region};

/// The digit that was found in a region.
pub(super) struct Digit {
    /// Foreground strength of the whole region.
    strength: Plane,
    /// The strokes, dilated by one pixel.
    mask: Mask,
    /// Bounding box of the strokes.
    bounds: Bounds,
    /// Strength up to which a pixel is background.
    floor: f32,
    /// Strength of a full stroke.
    full: f32,
}

/// Fraction of the full strength at which a stroke starts.
const CORE_FRACTION: f32 = 0.33;
/// Fraction of the full strength down to which the soft edge of a stroke extends.
const EDGE_FRACTION: f32 = 0.12;
/// Maximum width of the soft edge, in pixels.
const MAX_EDGE_STEPS: usize = 3;

/// Selects the connected components that form the digit. `None` where there are none.
pub(super) fn select(foreground: ForegroundMap) -> Option<Digit> {
    let ForegroundMap { strength, full: strongest, noise_sigma } = foreground;
    let core = (CORE_FRACTION * strongest).max(4.0 * noise_sigma).min(0.7 * strongest);
    let runs: Vec<Run> = digit_components(connected_components(&strength, core), &strength)
        .into_iter()
        .flat_map(|component| component.runs)
        .collect();
    // The strongest pixels separate foreground from background; only the digit's own strokes determine its full strength.
    let levels: Vec<u8> = runs.iter().flat_map(|run| run.of(&strength)).copied().collect();
    let full = f32::from(Histogram::of(&levels).quantile(0.8));
    let mut mask = Mask::empty(strength.height);
    for &run in &runs {
        mask.insert(run);
    }
    let soft = Mask::threshold(&strength, (EDGE_FRACTION * full).max(3.0 * noise_sigma));
    for _ in 0..MAX_EDGE_STEPS {
        mask = mask.dilate(&soft);
    }
    let bounds = mask.bounds()?;

    // The noise is cut off at the bottom. One pixel around the strokes is kept for their faintest edge.
    let floor = (2.0 * noise_sigma).min(0.3 * full);
    let mask = mask.dilate(&Mask::full(strength.height));
    Some(Digit { strength, mask, bounds, floor, full })
}

struct Component {
    runs: Vec<Run>,
    bounds: Bounds,
    /// Sum of the strength.
    mass: f32,
    /// Whether it touches the edge of the image.
    touches_edge: bool,
}

/// Connected components above a level (8-connectivity), in the order of their first pixels.
fn connected_components(strength: &Plane, level: f32) -> Vec<Component> {
    let runs = Mask::threshold(strength, level).runs();
    // Union-find: each run refers to an earlier run of its component, or to itself.
    let mut parents: Vec<usize> = (0..runs.len()).collect();
    let mut first_above = 0;
    for (index, &run) in runs.iter().enumerate() {
        while runs[first_above].row + 1 < run.row {
            first_above += 1;
        }
        // A run above that ends left of this one also ends left of all later runs of the row.
        while runs[first_above].row + 1 == run.row && runs[first_above].right + 1 < run.left {
            first_above += 1;
        }
        for above in (first_above..index).take_while(|&above| runs[above].touches(run)) {
            let (one, other) = (root(&mut parents, above), root(&mut parents, index));
            parents[one.max(other)] = one.min(other);
        }
    }

    let mut components: Vec<Component> = Vec::new();
    let mut positions = vec![0; runs.len()];
    for (index, &run) in runs.iter().enumerate() {
        let root = root(&mut parents, index);
        if root == index {
            positions[index] = components.len();
            components.push(Component {
                runs: Vec::new(),
                bounds: Bounds::from_run(run),
                mass: 0.0,
                touches_edge: false,
            });
        }
        let component = &mut components[positions[root]];
        component.runs.push(run);
        component.bounds = component.bounds.union(Bounds::from_run(run));
        component.mass += run.of(strength).iter().map(|&value| u32::from(value)).sum::<u32>() as f32;
    }
    let (right, bottom) = (strength.width - 1, strength.height - 1);
    for Component { bounds, touches_edge, .. } in &mut components {
        *touches_edge = bounds.left == 0 || bounds.top == 0 || bounds.right == right || bounds.bottom == bottom;
    }
    components
}

/// Root of a run's component, with path halving.
fn root(parents: &mut [usize], mut index: usize) -> usize {
    while parents[index] != index {
        parents[index] = parents[parents[index]];
        index = parents[index];
    }
    index
}

/// Removes the edge of the table, shadows in the corners, dust and specks.
fn digit_components(mut components: Vec<Component>, strength: &Plane) -> Vec<Component> {
    let heaviest = |components: &[Component], touches_edge: bool| {
        components
            .iter()
            .filter(|component| component.touches_edge == touches_edge)
            .map(|component| component.mass)
            .fold(0.0, f32::max)
    };
    if heaviest(&components, false) >= 0.15 * heaviest(&components, true) && heaviest(&components, false) > 0.0 {
        components.retain(|component| !component.touches_edge);
    }
    let Some(main) = components.iter().max_by(|a, b| a.mass.total_cmp(&b.mass)) else { return components };
    let (mass, bounds) = (main.mass, main.bounds);
    // The top stroke of a five may be separate and light; dust is light as well, but at any distance.
    let near = bounds.longest_side().max(strength.width.min(strength.height) / 20) / 3;
    components.retain(|component| {
        component.mass >= 0.1 * mass || (component.mass >= 0.02 * mass && component.bounds.gap_to(bounds) <= near)
    });
    components
}

impl Run {
    fn of(self, plane: &Plane) -> &[u8] {
        &plane.values[self.row * plane.width..][self.left..=self.right]
    }
}

impl Digit {
    pub(super) fn longest_side(&self) -> usize {
        self.bounds.longest_side()
    }

    /// The digit with a margin of its own size, in the coordinates of the image of which `region` is a part.
    pub(super) fn region_around(&self, region: Region) -> Region {
        let ratio_x = f64::from(region.width) / self.strength.width as f64;
        let ratio_y = f64::from(region.height) / self.strength.height as f64;
        let margin = 0.6 * self.longest_side() as f64 + 2.0;
        let span = |first: usize, last: usize, ratio: f64, length: u32| {
            let start = ((first as f64 - margin) * ratio).max(0.0) as u32;
            let end = ((last as f64 + 1.0 + margin) * ratio).ceil().min(f64::from(length)) as u32;
            (start, (end - start).max(1))
        };
        let (left, width) = span(self.bounds.left, self.bounds.right, ratio_x, region.width);
        let (top, height) = span(self.bounds.top, self.bounds.bottom, ratio_y, region.height);
        Region { left: region.left + left, top: region.top + top, width, height }
    }

    /// The digit within its bounding box, stretched to 255; 0 for pixels outside the strokes.
    pub(super) fn crop(&self) -> Plane {
        let slope = 255.0 / (self.full - self.floor);
        let ink: [u8; 256] = std::array::from_fn(|value| ((value as f32 - self.floor) * slope + 0.5) as u8);
        let Bounds { left, top, right, bottom } = self.bounds;
        let mut values = Vec::with_capacity(self.bounds.width() * self.bounds.height());
        for (y, row) in self.strength.rows().enumerate().take(bottom + 1).skip(top) {
            let ink = |x: usize| if self.mask.contains(x, y) { ink[usize::from(row[x])] } else { 0 };
            values.extend((left..=right).map(ink));
        }
        Plane { width: self.bounds.width(), height: self.bounds.height(), values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_connected_by_sides_or_corners() {
        let rows = "#..#..#
                    ##.#.#.
                    ..#....
                    .....#.
                    #.#.#.#
                    ###....";
        let values = rows
            .lines()
            .flat_map(|row| row.trim_start().bytes())
            .map(|byte| if byte == b'#' { 9 } else { 0 })
            .collect();
        let found = connected_components(&Plane { width: 7, height: 6, values }, 5.0);
        let sizes: Vec<_> = found.iter().map(|component| component.mass / 9.0).collect();
        assert_eq!(sizes, [6.0, 2.0, 3.0, 5.0]);
        assert_eq!(found[0].bounds, Bounds { left: 0, top: 0, right: 3, bottom: 2 });
        assert!(found.iter().all(|component| component.touches_edge));
    }
}
