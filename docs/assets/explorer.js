// The page "What a climb adds": two levels picked, the tree of files, each with owner and purpose. Needs no network.
(function () {
  "use strict";

  // Return the files of level TO that are new since FROM (all of them when FROM is null), those whose text holds WORDS.
  function chosen(files, from, to, words) {
    var wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    return files.filter(function (file) {
      var text = file.join(" ").toLowerCase();
      return file[1] <= to && (from === null || file[1] > from) && wanted.every(function (word) { return text.includes(word); });
    });
  }

  // Return files as nested folders: {folders: {name: ...}, files: [...], count}.
  function tree(files) {
    var root = { folders: {}, files: [], count: 0 };
    files.forEach(function (file) {
      var names = file[0].split("/"), at = root;
      root.count += 1;
      names.slice(0, -1).forEach(function (name) {
        at = at.folders[name] = at.folders[name] || { folders: {}, files: [], count: 0 };
        at.count += 1;
      });
      at.files.push(file);
    });
    return root;
  }

  if (typeof module !== "undefined") { module.exports = { chosen: chosen, tree: tree }; return; }

  var place = document.getElementById("explorer");
  if (!place) { return; }
  var data = JSON.parse(document.getElementById("explorer-data").textContent);

  function element(name, text, inside) {
    var made = document.createElement(name);
    if (text) { made.textContent = text; }
    (inside || []).forEach(function (one) { made.appendChild(one); });
    return made;
  }

  function picker(label, options, value) {
    var select = element("select");
    options.forEach(function (option, n) {
      var made = element("option", option[0]);
      made.value = option[1];
      select.appendChild(made);
    });
    select.value = value;
    select.addEventListener("change", show);
    return { select: select, label: element("label", label + " ", [select]) };
  }

  var levels = data.levels.map(function (name, n) { return ["level " + name, String(n)]; });
  var from = picker("from", [["nothing: the whole project", ""]].concat(levels), "0");
  var to = picker("to", levels, "1");
  var words = element("input");
  words.type = "search";
  words.placeholder = "a word of path, owner or purpose";
  words.addEventListener("input", show);
  var controls = element("p", "", [from.label, to.label, element("label", "with ", [words])]);
  controls.className = "explorer-controls";
  var counted = element("p"), shown = element("div");
  counted.setAttribute("role", "status");
  [controls, counted, shown].forEach(function (one) { place.appendChild(one); });

  function drawn(folder, open) {
    var list = element("ul");
    Object.keys(folder.folders).sort().forEach(function (name) {
      var inner = folder.folders[name];
      var details = element("details", "", [element("summary", name + "/ (" + inner.count + ")"), drawn(inner, open)]);
      details.open = open || inner.count <= 12;
      list.appendChild(element("li", "", [details]));
    });
    folder.files.forEach(function (file) {
      var owner = element("span", file[2]);
      owner.className = "owner owner-" + file[2];
      var purpose = element("span", file[3].replace(/`/g, ""));
      var name = element("code", file[0].split("/").pop());
      list.appendChild(element("li", "", [name, owner, purpose]));
    });
    return list;
  }

  function show() {
    var start = from.select.value === "" ? null : Number(from.select.value), end = Number(to.select.value);
    var files = chosen(data.files, start, end, words.value);
    var mine = files.filter(function (file) { return file[2] === "yours"; }).length;
    shown.textContent = "";
    if (start !== null && start >= end) {
      counted.textContent = "A project goes up: pick a higher level to go to.";
      return;
    }
    counted.textContent = files.length + " files, " + mine + " of them yours.";
    shown.appendChild(drawn(tree(files), words.value !== ""));
  }

  show();
})();
