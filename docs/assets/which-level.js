// The page "Which level do I need?": the highest level that an answer asks for, and why. Needs no network.
(function () {
  "use strict";

  // Return the level that the ticked answers ask for, and those of them that ask for just this one.
  function needed(ticked) {
    var level = ticked.reduce(function (most, one) { return Math.max(most, one.level); }, 0);
    return { level: level, why: ticked.filter(function (one) { return one.level === level; }).map(function (one) { return one.why; }) };
  }

  if (typeof module !== "undefined") { module.exports = { needed: needed }; return; }

  var form = document.getElementById("which-level");
  if (!form) { return; }
  var result = document.getElementById("which-level-result");
  var names = JSON.parse(form.dataset.levels);

  function show() {
    var ticked = Array.from(form.querySelectorAll("input:checked")).map(function (box) {
      return { level: Number(box.value), why: box.parentNode.textContent.trim() };
    });
    var found = needed(ticked), truth = form.querySelector("[data-truth]");
    result.textContent = "";
    var title = document.createElement("strong");
    title.textContent = "Level " + names[found.level];
    result.appendChild(title);
    var text = found.level === 0 ? " is enough for now." : " because: " + found.why.join(" ");
    if (found.level === 4 && !truth.checked) {
      text += " Without labels that come back, level 4 sees drift and not decay: see first how you get the truth.";
    }
    result.appendChild(document.createTextNode(text));
  }

  form.addEventListener("change", show);
  show();
})();
