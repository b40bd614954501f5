// A picture with points that can be dragged, or moved with the arrow keys. Everything that is
// computed comes from Python: a moved point is sent there, and a new picture and text come back.
const near = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);

// A PNG, or plain RGBA values: these need no decoder, and so many bytes are not held back by TCP
// until an earlier message is acknowledged (40 ms, as Jupyter's server leaves Nagle's rule on).
function decoded(bytes, [w, h]) {
  if (bytes.byteLength !== 4 * w * h) return new Blob([bytes], { type: "image/png" });
  return new ImageData(new Uint8ClampedArray(bytes.buffer, bytes.byteOffset, bytes.byteLength), w, h);
}
function render({ model, el }) {
  const canvas = document.createElement("canvas");
  const text = document.createElement("div");
  el.classList.add("pn-lab");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  text.className = "pn-text";
  text.setAttribute("role", "status");
  el.append(canvas, text);
  let image = null, active = 0, held = false, sent = 0, busy = false, again = false, timer = 0;
  let points = model.get("points");  // as the reader placed them: an answer can be older

  function adopt() {
    if (!held && !again) points = model.get("points");
    draw();
  }
  function free() {
    clearTimeout(timer);
    busy = false;
    if (again) send();
  }
  function draw() {
    const [w, h] = model.get("size");
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, w, h);
    if (image) pen.drawImage(image, 0, 0, w, h);
    points.forEach(([x, y], i) => {
      pen.beginPath();
      pen.arc(x, y, i === active ? 9 : 7, 0, 7);
      pen.lineWidth = 5;
      pen.strokeStyle = "#000000";
      pen.stroke();
      pen.lineWidth = 3;
      pen.strokeStyle = i === active ? "#E69F00" : "#FFFFFF";
      pen.stroke();
    });
    const name = model.get("names")[active];
    if (name && points.length > 1) {
      const [x, y] = points[active];
      pen.font = "14px sans-serif";
      const wide = pen.measureText(name).width;
      const left = Math.min(Math.max(2, x + 12), w - wide - 6);
      pen.fillStyle = "#FFFFFFE0";
      pen.fillRect(left - 3, Math.max(2, y - 26), wide + 6, 19);
      pen.fillStyle = "#000000";
      pen.fillText(name, left, Math.max(16, y - 12));
    }
  }
  async function load() {
    const count = model.get("answers");
    const next = await createImageBitmap(decoded(model.get("picture"), model.get("size")));
    if (count === model.get("answers")) image = next;  // a small picture may overtake a large one
    draw();
    if (sent) canvas.dataset.ms = (performance.now() - sent).toFixed(1);
    sent = 0;
    free();
  }
  function say() {
    text.textContent = model.get("text");
    const keys = points.length > 1 ? "Arrow keys move, N and P choose a point. " : "";
    const one = points.length === 1 ? "Arrow keys move the point. " : "";
    canvas.setAttribute("aria-label", model.get("label") + ". " + keys + one + model.get("text"));
  }
  function send() {  // one answer at a time: what is moved meanwhile is sent together
    again = busy;
    if (busy) return;
    busy = true;
    sent = performance.now();
    model.set("near", near);
    model.set("points", points);
    model.save_changes();
    timer = setTimeout(free, 500);  // a kernel that is busy or gone stops nobody
  }
  function move(i, x, y) {
    const [w, h] = model.get("size");
    const place = [Math.min(Math.max(x, 0), w - 1), Math.min(Math.max(y, 0), h - 1)];
    if (model.get("flat")) place[1] = points[i][1];
    if (place[0] === points[i][0] && place[1] === points[i][1]) return draw();
    points = points.map((p, k) => (k === i ? place : p));
    draw();
    send();
  }
  function at(event) {
    const box = canvas.getBoundingClientRect();
    const [w, h] = model.get("size");
    return [((event.clientX - box.left) * w) / box.width, ((event.clientY - box.top) * h) / box.height];
  }
  canvas.addEventListener("pointerdown", (event) => {
    if (!points.length || event.button) return;  // the other buttons open menus
    const [x, y] = at(event);
    const far = points.map((p) => Math.hypot(p[0] - x, p[1] - y));
    active = far.indexOf(Math.min(...far));
    held = true;
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    move(active, x, y);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => { if (held) move(active, ...at(event)); });
  canvas.addEventListener("lostpointercapture", () => { held = false; });  // also if cancelled
  canvas.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 8 : 1, count = points.length;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const turn = { n: 1, N: 1, p: -1, P: -1 }[event.key];
    if (!count || !(event.key in ways || turn)) return;
    event.preventDefault();
    event.stopPropagation();
    if (turn) {
      active = (active + turn + count) % count;
      return draw();
    }
    const [x, y] = points[active], [dx, dy] = ways[event.key];
    move(active, x + dx * step, y + dy * step);
  });
  model.on("change:answers", load);
  model.on("change:points", adopt);
  model.on("change:size", draw);
  model.on("change:text", say);
  load();
  say();
}
export default { render };
