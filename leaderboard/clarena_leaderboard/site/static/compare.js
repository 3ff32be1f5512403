/* Two to four rows side by side, chosen by the URL's hash: #rows=slug,slug. Everything is set as text, never as HTML. */
(function () {
  "use strict";
  var all = JSON.parse(document.getElementById("data").textContent), result = document.getElementById("result");
  var add = document.getElementById("add"), status = document.querySelector(".shown");
  var metrics = result.dataset.metrics.split(";").filter(Boolean).map(function (line) { return line.split("|"); });
  var higher = result.dataset.higher === "yes", sortTitle = result.dataset.sortTitle;
  var SVG = "http://www.w3.org/2000/svg";

  function make(name, text, attributes, parts) {
    var node = document.createElement(name);
    if (text !== undefined && text !== null) node.textContent = text;
    Object.entries(attributes || {}).forEach(function (pair) { node.setAttribute(pair[0], pair[1]); });
    (parts || []).forEach(function (part) { node.appendChild(part); });
    return node;
  }
  function draw(name, attributes, text) {
    var node = document.createElementNS(SVG, name);
    Object.entries(attributes).forEach(function (pair) { node.setAttribute(pair[0], pair[1]); });
    if (text) node.textContent = text;
    return node;
  }
  function minus(text) { return String(text).replace("-", "−"); }
  function percent(pair) {
    if (!pair || pair[0] === null) return "–";
    return minus((100 * pair[0]).toFixed(1)) + (pair[1] === null ? "" : " ± " + (100 * pair[1]).toFixed(1));
  }
  function size(value, units) {
    var i = 0;
    while (value >= 1000 && i < units.length - 1) { value /= 1000; i += 1; }
    return value.toFixed(i && value < 100 ? 1 : 0) + " " + units[i];
  }
  var COSTS = {
    train_seconds: ["Training", function (v) { return v.toFixed(v < 100 ? 1 : 0) + " s"; }],
    state_bytes: ["State", function (v) { return size(v, ["B", "kB", "MB", "GB"]); }],
    parameters: ["Parameters", function (v) { return size(v, ["", "k", "M", "G"]); }],
    buffer_size: ["Buffer", String]
  };

  /* The exact two-sided sign-flip test: the share of the 2^n sign patterns whose sum is as far from 0 as the observed. */
  function signFlip(differences) {
    var n = differences.length, total = 0, extreme = 0;
    if (n > 16) return null;
    differences.forEach(function (d) { total += d; });
    for (var pattern = 0; pattern < 1 << n; pattern += 1) {
      var sum = 0;
      for (var k = 0; k < n; k += 1) sum += pattern >> k & 1 ? -differences[k] : differences[k];
      if (Math.abs(sum) >= Math.abs(total) - 1e-9) extreme += 1;
    }
    return extreme / (1 << n);
  }
  window.clarenaSignFlip = signFlip;

  function chosen() {
    var slugs = (new URLSearchParams(location.hash.slice(1)).get("rows") || "").split(",");
    return slugs.filter(function (slug, i) { return slugs.indexOf(slug) === i; })
      .map(function (slug) { return all.find(function (row) { return row.slug === slug; }); }).filter(Boolean).slice(0, 4);
  }
  function go(rows) { location.hash = "rows=" + rows.map(function (row) { return row.slug; }).join(","); }

  function section(title, note, content) {
    result.appendChild(make("h2", title));
    if (note) result.appendChild(make("p", note, { "class": "note" }));
    result.appendChild(content);
  }
  function table(rows, lines, label) {
    var head = make("tr", null, {}, [make("td")].concat(rows.map(function (row, i) {
      return make("th", null, { scope: "col", "class": "num chosen-c" + i }, [make("a", row.label, { href: "../row/" + row.slug + ".html" })]);
    })));
    var body = make("tbody", null, {}, lines.map(function (line) {
      return make("tr", null, {}, [make("th", line.title, { scope: "row" })].concat(line.cells.map(function (cell, i) {
        return make("td", cell, { "class": "num" + (line.leads === i ? " leads" : "") + (line.differs ? " differs" : "") });
      })));
    }));
    var whole = make("table", null, { "class": "plain lines" }, [make("thead", null, {}, [head]), body]);
    return make("div", null, { "class": "scroll", role: "region", tabindex: "0", "aria-label": label }, [whole]);
  }
  function leader(values, up) {
    var known = values.filter(function (v) { return v !== null && v !== undefined; });
    if (known.length < 2) return -1;
    var best = Math[up ? "max" : "min"].apply(null, known);
    return known.filter(function (v) { return v === best; }).length === 1 ? values.indexOf(best) : -1;
  }

  function pairs(rows) {
    var list = make("ul");
    rows.forEach(function (a, i) {
      rows.slice(i + 1).forEach(function (b) {
        var shared = Object.keys(a.seeds).filter(function (s) { return s in b.seeds && a.seeds[s] !== null && b.seeds[s] !== null; });
        if (!shared.length) { list.appendChild(make("li", a.label + " and " + b.label + " share no seed.")); return; }
        var d = shared.map(function (s) { return a.seeds[s] - b.seeds[s]; }), p = signFlip(d);
        var mean = d.reduce(function (x, y) { return x + y; }, 0) / d.length, least = 2 / Math.pow(2, d.length);
        var told = p === null ? "more than 16 seeds: run clarena compare for the test"
          : (p < 0.05 ? (mean > 0 === higher ? "better" : "worse") : least >= 0.05 ? "too few seeds to tell" : "not told apart") + ", p = " + p.toFixed(p < 0.01 ? 4 : 3);
        list.appendChild(make("li", a.label + " against " + b.label + ": " + (mean > 0 ? "+" : "") + minus((100 * mean).toFixed(1)) + " points over " + d.length + " shared seeds; " + told + "."));
      });
    });
    return list;
  }

  function curves(rows) {
    var w = 540, h = 300, left = 40, right = 530, top = 16, bottom = 262;
    var last = Math.max.apply(null, rows.map(function (row) { return row.curve.length; }));
    var svg = draw("svg", { viewBox: "0 0 " + w + " " + h, "class": "chart", role: "img", "aria-label": result.dataset.curve });
    function x(i) { return left + 10 + (right - left - 20) * (last > 1 ? i / (last - 1) : 0.5); }
    function y(v) { return bottom + (top - bottom) * v; }
    [0, 0.25, 0.5, 0.75, 1].forEach(function (v) {
      svg.appendChild(draw("line", { x1: left, x2: right, y1: y(v), y2: y(v), "class": "stroke-grid" }));
      svg.appendChild(draw("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end", "font-size": 11, "class": "fill-muted" }, 100 * v + ""));
    });
    for (var i = 0; i < last; i += Math.ceil(last / 12)) svg.appendChild(draw("text", { x: x(i), y: bottom + 18, "text-anchor": "middle", "font-size": 11, "class": "fill-muted" }, i + 1 + ""));
    svg.appendChild(draw("text", { x: (left + right) / 2, y: h - 6, "text-anchor": "middle", "font-size": 12, "class": "fill-muted" }, "experiences learned"));
    rows.forEach(function (row, k) {
      var known = row.curve.map(function (pair, i) { return [i, pair[0], pair[1] || 0]; }).filter(function (t) { return t[1] !== null; });
      var edge = known.map(function (t) { return x(t[0]) + "," + y(Math.min(t[1] + t[2], 1)); })
        .concat(known.slice().reverse().map(function (t) { return x(t[0]) + "," + y(Math.max(t[1] - t[2], 0)); }));
      svg.appendChild(draw("polygon", { points: edge.join(" "), "fill-opacity": 0.15, "class": "fill-c" + k }));
      svg.appendChild(draw("polyline", { points: known.map(function (t) { return x(t[0]) + "," + y(t[1]); }).join(" "), fill: "none", "stroke-width": 2.4, "stroke-dasharray": ["", "7 3", "2 3", "9 3 2 3"][k], "class": "stroke-c" + k }));
      known.forEach(function (t) {
        var dot = draw("circle", { cx: x(t[0]), cy: y(t[1]), r: 3.2, "class": "fill-c" + k });
        dot.appendChild(draw("title", {}, row.label + " after " + (t[0] + 1) + ": " + percent([t[1], t[2] || null]) + " %"));
        svg.appendChild(dot);
      });
    });
    return make("figure", null, {}, [svg]);
  }

  function show() {
    var rows = chosen();
    result.replaceChildren();
    status.textContent = rows.length + " of at most 4 rows";
    add.disabled = rows.length >= 4;
    if (!rows.length) { result.appendChild(make("p", "Choose two to four rows above, or tick them in the track's table.")); return; }
    result.appendChild(make("p", null, { "class": "legend" }, rows.map(function (row, i) {
      var off = make("button", "Remove " + row.label, { type: "button", "class": "quiet chosen-c" + i });
      off.addEventListener("click", function () { go(rows.filter(function (each) { return each !== row; })); });
      return off;
    })));
    section("Numbers", "Mean ± half-width of the 95 % interval, in percent; the best of each line is bold.", table(rows, metrics.map(function (m) {
      var values = rows.map(function (row) { return row.metrics[m[0]]; });
      return { title: m[1], cells: values.map(percent), leads: leader(values.map(function (v) { return v[0]; }), m[2] === "higher") };
    }).concat(Object.entries(COSTS).map(function (cost) {
      var values = rows.map(function (row) { return row.costs[cost[0]]; });
      return { title: cost[1][0], cells: values.map(function (v) { return v === null ? "–" : cost[1][1](v); }), leads: leader(values, false) };
    })).concat(Object.keys(rows[0].facts).map(function (fact) {
      return { title: fact, cells: rows.map(function (row) { return row.facts[fact] === null || row.facts[fact] === "" ? "–" : row.facts[fact]; }) };
    })), "Numbers"));
    if (rows.length > 1) section("Paired by seed", sortTitle + ", exact two-sided sign-flip test, not corrected for the number of comparisons.", pairs(rows));
    if (rows.some(function (row) { return row.curve.length > 1; })) section(result.dataset.curve, "Mean over the experiences seen, with its 95 % interval.", curves(rows));
    var seeds = Object.keys(Object.assign.apply(null, [{}].concat(rows.map(function (row) { return row.seeds; }))));
    section("Each seed", sortTitle + ", percent.", table(rows, seeds.map(function (s) {
      var values = rows.map(function (row) { return s in row.seeds ? row.seeds[s] : null; });
      return { title: s, cells: values.map(function (v) { return v === null ? "–" : minus((100 * v).toFixed(2)); }), leads: leader(values, higher) };
    }), "Each seed"));
    var names = Object.keys(Object.assign.apply(null, [{}].concat(rows.map(function (row) { return row.settings; }))));
    section("Hyper-parameters", "Shaded where they differ.", table(rows, names.map(function (name) {
      var values = rows.map(function (row) { return name in row.settings ? row.settings[name] : "–"; });
      return { title: name, cells: values, differs: new Set(values).size > 1 };
    }), "Hyper-parameters"));
  }
  add.addEventListener("change", function () {
    var row = all.find(function (each) { return each.slug === add.value; });
    add.selectedIndex = 0;
    if (row && !chosen().includes(row)) go(chosen().concat([row]));
  });
  addEventListener("hashchange", show);
  show();
})();
