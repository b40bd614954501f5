// The codec, flip and OKS laboratories in plain JavaScript: the formulas of pose_nb.labs again, so
// that a page opened from a folder shows them. labs_data.js holds the constants.
"use strict";
const D = window.LABS_DATA;
const CODECS = ["MSRA", "DARK", "UDP", "Megvii"];
const f32 = Math.fround;
const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

// ---- blurs, as OpenCV has them
function taps(size) {
  const small = { 5: [1, 4, 6, 4, 1] }[size];
  const sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8, half = (size - 1) / 2;
  const all = small || Array.from({ length: size }, (_, i) => Math.exp(-((i - half) ** 2) / (2 * sigma ** 2)));
  const sum = all.reduce((a, b) => a + b);
  return all.map((t) => t / sum);
}
function blurMatrix(length, size, border) {
  const reach = (size - 1) / 2, period = Math.max(1, 2 * (length - 1));
  const rows = Array.from({ length }, () => new Float64Array(length));
  for (let i = 0; i < length; i++) {
    taps(size).forEach((tap, k) => {
      let j = i - reach + k;
      if (border === "reflect") {
        j = ((j % period) + period) % period;
        j = Math.min(j, period - j);
      }
      if (j >= 0 && j < length) rows[i][j] += tap;
    });
  }
  return rows;
}
function blurred(map, size) {  // the whole map, zeros beyond it
  const t = taps(size), reach = (size - 1) / 2, h = map.length, w = map[0].length;
  const across = map.map((row) => row.map((_, x) => t.reduce((s, v, k) => s + v * (row[x - reach + k] || 0), 0)));
  return across.map((row, y) => row.map((_, x) =>
    t.reduce((s, v, k) => s + v * (y - reach + k >= 0 && y - reach + k < h ? across[y - reach + k][x] : 0), 0)));
}
const highest = (map) => Math.max(...map.map((row) => Math.max(...row)));
function blurAround(map, px, py, radius, size) {
  const t = taps(size), reach = (size - 1) / 2, out = [];
  const at = (x, y) => (map[y] && map[y][x]) || 0;
  for (let dy = -radius; dy <= radius; dy++) {
    const row = [];
    for (let dx = -radius; dx <= radius; dx++) {
      let sum = 0;
      t.forEach((a, i) => t.forEach((b, j) => { sum += a * b * at(px + dx + j - reach, py + dy + i - reach); }));
      row.push(sum);
    }
    out.push(row);
  }
  return out;
}
function logAround(map, px, py, radius, size, low, high) {
  const h = map.length, w = map[0].length, near = blurAround(map, px, py, radius, size);
  const index = (p, d, n) => clamp(p + d, 0, n - 1) - p + radius;  // beyond the edge its pixel repeats
  const after = highest(blurred(map, size)), scale = highest(map) / (after || 1);
  return near.map((row, i) => row.map((_, j) => {
    const value = near[index(py, i - radius, h)][index(px, j - radius, w)];
    return Math.log(clamp(value * scale, low, high));
  }));
}
function newton(gx, gy, xx, yy, xy, damping = 0) {
  xx += damping;
  yy += damping;
  const det = xx * yy - xy * xy, step = [(xy * gy - yy * gx) / det, (xy * gx - xx * gy) / det];
  return det !== 0 && step.every(Number.isFinite) ? step : [0, 0];
}

// ---- codecs: {size: [W, H] of the input, shape: [w, h] of the heatmap}
function makeCodec(name, size, stride, sigma) {
  const shape = size.map((n) => Math.floor(n / stride)), less = name === "UDP" ? 1 : 0;
  return { name, shape, sigma, factor: size.map((n, i) => (n - less) / (shape[i] - less)) };
}
function gaussianWindow(n, mu, length, sigma) {
  const lopsided = sigma === 1.5, reach = Math.ceil(3 * sigma);
  const start = lopsided ? Math.trunc(n - 3 * sigma) : n - reach;
  const end = lopsided ? Math.trunc(n + 3 * sigma + 1) : n + reach + 1;
  return Array.from({ length }, (_, x) => {
    const distance = x - start - (Math.ceil(3 * sigma) + (mu - n));
    return x >= start && x < end ? f32(Math.exp(-(distance ** 2) / (2 * sigma ** 2))) : 0;
  });
}
function fullGaussian(mu, length, sigma) {
  return Array.from({ length }, (_, x) =>
    f32(Math.exp(Math.max(-((x - mu) ** 2) / (2 * sigma ** 2), -110)) * 2 ** 40));
}
function encode(codec, point) {
  const axes = [0, 1].map((axis) => {
    const length = codec.shape[axis], mu = f32(f32(point[axis]) / f32(codec.factor[axis]));
    const n = Math.trunc(mu + 0.5);
    if (codec.name === "MSRA") return gaussianWindow(n, n, length, codec.sigma);
    if (codec.name === "UDP") return gaussianWindow(n, mu, length, codec.sigma);
    if (codec.name === "DARK") return fullGaussian(mu, length, codec.sigma);
    const m = Math.trunc(mu), blur = blurMatrix(length, 5, "reflect");
    if (m < 0 || m >= length) return new Array(length).fill(0);
    return Array.from({ length }, (_, i) => f32(blur[i][m] / blur[m][m]) * (axis === 0 ? 255 : 1));
  });
  const scale = codec.name === "DARK" ? 2 ** -80 : 1;
  return axes[1].map((down) => axes[0].map((across) => f32(down * across) * scale));
}
function peak(map) {
  let best = { x: 0, y: 0, value: map[0][0] };
  map.forEach((row, y) => row.forEach((value, x) => { if (value > best.value) best = { x, y, value }; }));
  return best;
}
const STEPS = {
  MSRA(map, x, y) {
    const h = map.length, w = map[0].length;
    const at = (i, j) => map[clamp(j, 0, h - 1)][clamp(i, 0, w - 1)];
    const sx = 0.25 * Math.sign(at(x + 1, y) - at(x - 1, y)), sy = 0.25 * Math.sign(at(x, y + 1) - at(x, y - 1));
    return [x > 1 && x < w - 1 && y > 0 ? sx : 0, y > 1 && y < h - 1 && x > 0 ? sy : 0];
  },
  DARK(map, x, y) {
    const h = map.length, w = map[0].length;
    if (!(x > 1 && x < w - 2 && y > 1 && y < h - 2)) return [0, 0];
    const L = logAround(map, x, y, 2, 11, 1e-10, Infinity), twice = 2 * L[2][2];
    const gx = (L[2][3] - L[2][1]) / 2, gy = (L[3][2] - L[1][2]) / 2;
    const xx = (L[2][4] - twice + L[2][0]) / 4, yy = (L[4][2] - twice + L[0][2]) / 4;
    return newton(gx, gy, xx, yy, (L[3][3] - L[1][3] - L[3][1] + L[1][1]) / 4);
  },
  UDP(map, x, y) {
    const L = logAround(map, x, y, 1, 11, 1e-3, 50), twice = 2 * L[1][1];
    const [left, right, up, down] = [L[1][0], L[1][2], L[0][1], L[2][1]];
    const xy = (L[2][2] - right - down + twice - left - up + L[0][0]) / 2;
    return newton((right - left) / 2, (down - up) / 2, right - twice + left, down - twice + up, xy, 2 ** -23);
  },
  Megvii(map, x, y) {
    const h = map.length, w = map[0].length;
    if (!(x > 1 && x < w - 1 && y > 1 && y < h - 1)) return [0, 0];
    const near = blurAround(map, x, y, 1, 5), centre = near[1][1];
    const quarter = (slope) => (Math.abs(slope) > 1e-9 * Math.abs(centre) ? Math.sign(slope) * Math.sign(centre) : 0);
    return [near[1][2] - near[1][0], near[2][1] - near[0][1]].map((s) => 0.25 * quarter(s) + 0.5);
  },
};
function decode(codec, map) {
  let searched = map;
  if (codec.name === "Megvii") {
    const soft = blurred(map, 5), scale = highest(map) / (highest(soft) || 1);
    searched = soft.map((row) => row.map((v) => f32(v * scale)));
  }
  const { x, y, value } = peak(searched);
  if (!(value > 0)) return codec.factor.map((f) => -f);
  const step = STEPS[codec.name](map, x, y);
  return [(x + step[0]) * codec.factor[0], (y + step[1]) * codec.factor[1]];
}

// ---- the laboratories
function coded(x, y, encoder = "MSRA", decoder = "", sigma = 2, stride = 4) {
  const coder = makeCodec(encoder, D.input, stride, sigma);
  const heatmap = encode(coder, [x, y]);
  const found = decode(makeCodec(decoder || encoder, D.input, stride, sigma), heatmap);
  return { heatmap, true: [x, y], found, factor: coder.factor, error: Math.hypot(found[0] - x, found[1] - y) };
}
function flipped(x, shift, name = "DARK", sigma = 2) {
  const coder = makeCodec(name, D.flip_input, D.flip_stride, sigma), y = D.flip_input[1] / 2;
  const direct = encode(coder, [x, y]);
  const mirrored = encode(coder, [D.flip_input[0] - 1 - x, y]).map((row) => [...row].reverse());
  const turned = mirrored.map((row) => row.map((_, c) => {
    const place = clamp(c - shift, 0, row.length - 1), low = Math.floor(place), share = place - low;
    return share ? row[low] * (1 - share) + row[low + 1] * share : row[low];
  }));
  const average = direct.map((row, j) => row.map((v, i) => f32((v + turned[j][i]) / 2)));
  const found = decode(coder, average)[0], at = peak(direct).y;
  return { direct: direct[at], turned: turned[at], true: x, found, bias: found - x, factor: coder.factor[0] };
}
function similarity(dx, dy, area, sigma) {
  return Math.exp(-(dx * dx + dy * dy) / ((2 * sigma) ** 2 * area) / 2);
}
function biasedAP(bias) {
  const people = D.areas.length;
  const found = D.errors.map((joints, i) =>
    joints.reduce((s, [x, y], k) => s + similarity(x + bias, y, D.areas[i], D.policies.COCO[k]), 0) / joints.length);
  let sum = 0;
  for (const threshold of D.thresholds) {
    let hits = 0;
    const recall = [], precision = [];
    found.forEach((value, i) => {
      hits += value >= threshold ? 1 : 0;
      recall.push(hits / people);
      precision.push(hits / (i + 1 + 2 ** -52));
    });
    for (let i = people - 2; i >= 0; i--) precision[i] = Math.max(precision[i], precision[i + 1]);
    for (const wanted of D.recalls) {
      const at = recall.findIndex((r) => r >= wanted);
      sum += at < 0 ? 0 : precision[at];
    }
  }
  return sum / D.thresholds.length / D.recalls.length;
}
function scored(points, policy = "COCO") {
  const terms = points.map(([x, y], k) => similarity(x - D.standing[k][0], y - D.standing[k][1], D.area, D.policies[policy][k]));
  const worst = terms.indexOf(Math.min(...terms));
  return { terms, worst, oks: terms.reduce((a, b) => a + b) / terms.length };
}

// ---- what is said below the pictures
function codecText(one) {
  const [tx, ty, fx, fy] = [...one.true, ...one.found].map((v) => v.toFixed(2));
  return `error ${one.error.toFixed(3)} px of the input; true (${tx}, ${ty}), found (${fx}, ${fy})`;
}
function flipText(one) {
  const cost = `AP of the made-up people ${biasedAP(one.bias).toFixed(3)}, without bias`;
  return `bias ${one.bias.toFixed(2)} px of the input; ${cost} ${biasedAP(0).toFixed(3)}`;
}
function oksText(one) {
  return `OKS ${one.oks.toFixed(3)}; worst: ${D.names[one.worst]} ${one.terms[one.worst].toFixed(2)}`;
}
window.poseLabs = { coded, flipped, biasedAP, scored, codecText, flipText, oksText };
if (typeof document !== "undefined" && document.querySelector("main")) start();

// ---- pictures and controls
function ring(pen, [x, y], radius, color) {
  for (const [width, paint] of [[5, "#000000"], [3, color]]) {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    pen.lineWidth = width;
    pen.strokeStyle = paint;
    pen.stroke();
  }
}
function line(pen, points, color, width) {
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.lineWidth = width;
  pen.strokeStyle = color;
  pen.stroke();
}
function lab(id, points, flat, show) {
  const section = document.getElementById(id), canvas = section.querySelector("canvas");
  const pen = canvas.getContext("2d"), text = section.querySelector("output");
  let active = 0, held = false;
  const value = (name) => section.querySelector(`[name=${name}]`).value;
  const update = () => {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    text.textContent = show(pen, points, value, () => active);
    points.forEach((p, i) => ring(pen, p, i === active ? 9 : 6, i === active ? D.colors.prediction : "#FFFFFF"));
    section.querySelectorAll("input").forEach((slider) => { slider.nextElementSibling.textContent = slider.value; });
  };
  const move = (x, y) => {
    points[active][0] = clamp(x, 0, canvas.width - 1);
    if (!flat) points[active][1] = clamp(y, 0, canvas.height - 1);
    update();
  };
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;  // the other buttons open menus
    const [x, y] = at(event), far = points.map((p) => Math.hypot(p[0] - x, p[1] - y));
    active = far.indexOf(Math.min(...far));
    held = true;
    canvas.setPointerCapture(event.pointerId);
    move(x, y);
  });
  canvas.addEventListener("pointermove", (event) => { if (held) move(...at(event)); });
  canvas.addEventListener("lostpointercapture", () => { held = false; });  // also if cancelled
  canvas.addEventListener("keydown", (event) => {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const turn = { n: 1, p: -1 }[event.key.toLowerCase()], step = event.shiftKey ? 8 : 1;
    if (turn) active = (active + turn + points.length) % points.length;
    if (ways) move(points[active][0] + ways[0] * step, points[active][1] + ways[1] * step);
    if (turn) update();
    if (ways || turn) event.preventDefault();
  });
  section.querySelectorAll("input, select").forEach((c) => c.addEventListener("input", update));
  update();
}
function start() {
  const scale = 4;
  let shown = [0, 0], joint = [];  // where the ring was drawn, and for which joint
  lab("codec", [[168, 248]], false, (pen, points, value) => {
    const stride = Number(value("stride")), sigma = Number(value("sigma"));
    const coder = makeCodec(value("encode"), D.input, stride, sigma), cell = stride * scale;
    const fixed = value("encode") === "Megvii" && ["", "MSRA", "Megvii"].includes(value("decode"));
    document.querySelector("#codec [name=sigma]").disabled = fixed;  // no σ anywhere
    if (String(points[0]) !== String(shown)) joint = points[0].map((v, i) => (v / cell - 0.5) * coder.factor[i]);
    points[0] = joint.map((v, i) => (v / coder.factor[i] + 0.5) * cell);  // another codec: the same joint
    shown = [...points[0]];
    const one = coded(...joint, value("encode"), value("decode"), sigma, stride), top = highest(one.heatmap) || 1;
    one.heatmap.forEach((row, y) => row.forEach((v, x) => {
      pen.fillStyle = D.magma[Math.trunc(clamp(v / top, 0, 1) * 255)];
      pen.fillRect(x * cell, y * cell, cell, cell);
    }));
    const [x, y] = one.found.map((v, i) => (v / coder.factor[i] + 0.5) * cell);
    for (const [color, width] of [["#000000", 5], ["#FFFFFF", 2]]) {
      line(pen, [[x - 11, y], [x + 11, y]], color, width);
      line(pen, [[x, y - 11], [x, y + 11]], color, width);
    }
    return codecText(one);
  });
  lab("flip", [[392, 190]], true, (pen, points, value) => {
    const factor = flipped(96, 0, value("codec")).factor;
    const x = clamp((points[0][0] / 16 - 0.5) * factor, 0, D.flip_input[0] - 1);
    const one = flipped(x, Number(value("shift")), value("codec"));
    const average = one.direct.map((v, i) => (v + one.turned[i]) / 2);
    const drawn = (values) => values.map((v, i) => [i * 16 + 8, 176 - 160 * v]);
    line(pen, drawn(one.direct), D.colors.first, 2);
    line(pen, drawn(one.turned), D.colors.second, 2);
    line(pen, drawn(average), "#000000", 2);
    const place = (one.found / one.factor + 0.5) * 16;
    line(pen, [[place, 6], [place, 198]], "#000000", 2);
    return flipText(one);
  });
  lab("oks", D.standing.map((p) => [...p]), false, (pen, points, value, active) => {
    const policy = value("policy");
    D.links.forEach(([a, b]) => line(pen, [D.standing[a], D.standing[b]], "#CDCDCD", 2));
    for (const [level, color] of [[0.5, D.colors.second], [0.85, D.colors.first]]) {
      D.standing.forEach(([x, y], k) => {
        pen.beginPath();
        pen.arc(x, y, 2 * D.policies[policy][k] * Math.sqrt(D.area * 2 * Math.log(1 / level)), 0, 7);
        pen.lineWidth = 1;
        pen.strokeStyle = color;
        pen.stroke();
      });
    }
    points.forEach((p, k) => line(pen, [D.standing[k], p], "#000000", 1));
    return oksText(scored(points, policy));
  });
}
