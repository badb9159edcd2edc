(() => {
  // The page's own root, however many pages one notebook shows.
  const root = document.currentScript.closest(".jxp-matrix");
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const tokens = [...root.querySelectorAll(".t")];
  const response = root.querySelector(".response");
  const buttons = [...response.querySelectorAll(".t")];
  const whole = buttons.length; // the row of the whole response
  const names = tokens.map((token) => token.textContent.trim() || "␣");
  const signed = (v) => (v < 0 ? "−" : "+") + Math.abs(v);
  const find = (name) => root.querySelector(name);
  let kept = whole;

  function show(row) {
    const scores = data.scores[row];
    const limit = data.limits[row];
    tokens.forEach((token, i) => {
      const share = Math.min(Math.abs(scores[i]) / limit, 1);
      token.style.setProperty("--share", share.toFixed(3));
      token.classList.toggle("for", scores[i] > 0);
      token.classList.toggle("against", scores[i] < 0);
      token.title = names[i] + "  " + signed(scores[i]);
    });
    buttons.forEach((button, t) => {
      button.classList.toggle("chosen", t === row);
      button.setAttribute("aria-pressed", String(t === kept));
    });
    find(".low").textContent = signed(-limit.toPrecision(3));
    find(".high").textContent = signed(+limit.toPrecision(3));
    const order = scores.map((v, i) => i).sort((a, b) => Math.abs(scores[b]) - Math.abs(scores[a]));
    const strongest = order.slice(0, 3).filter((i) => scores[i] !== 0);
    const what = row === whole ? "The whole response" : "“" + names[data.prompt + row] + "”";
    find(".says").textContent =
      what + ", " + data.sums[row] + " in all: " +
      strongest.map((i) => names[i] + " " + signed(scores[i])).join(", ");
  }

  function keep(row) {
    kept = kept === row ? whole : row;
    show(kept);
  }

  function go(row) {
    buttons.forEach((button, t) => (button.tabIndex = t === row ? 0 : -1));
    buttons[row].focus();
    show(row);
  }

  buttons.forEach((button, t) => {
    button.addEventListener("mouseenter", () => show(t));
    button.addEventListener("focus", () => show(t));
    button.addEventListener("click", () => keep(t));
  });
  response.addEventListener("mouseleave", () => show(kept));
  response.addEventListener("focusout", (event) => {
    if (!response.contains(event.relatedTarget)) show(kept);
  });
  response.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement);
    if (at < 0) return;
    const last = buttons.length - 1;
    const to = {
      ArrowRight: Math.min(at + 1, last), ArrowLeft: Math.max(at - 1, 0),
      ArrowDown: Math.min(at + 1, last), ArrowUp: Math.max(at - 1, 0),
      Home: 0, End: last,
    }[event.key];
    if (to !== undefined) go(to);
    else if (event.key === "Enter" || event.key === " ") keep(at);
    else if (event.key === "Escape") { kept = whole; show(whole); }
    else return;
    event.preventDefault();
  });
  show(whole);
})();
