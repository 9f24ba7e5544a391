// Asks for the state, and loads the report into a second frame where it has changed: the reader sees no empty page.
const state = document.getElementById("state");
let shown = null;
let version = null;
history.replaceState(null, "", location.pathname); // the token is in the cookie: keep it out of bookmarks and pictures

const say = (text, lost) => {
  if (state.textContent !== text) state.textContent = text;
  state.classList.toggle("lost", lost);
};

// The section that the reader looks at, and how far its top is from the top of the window.
const place = (view) => {
  const sections = [...view.document.querySelectorAll("main > section[id]")];
  const at = sections.filter((one) => one.getBoundingClientRect().top < view.innerHeight / 3).pop();
  return at && view.scrollY > 0 ? { id: at.id, top: at.getBoundingClientRect().top } : { y: view.scrollY };
};

const carry = (from, to) => {
  to.document.querySelectorAll("details").forEach((one, i) => {
    const before = from.document.querySelectorAll("details")[i];
    if (before) one.open = before.open;
  });
  for (const before of from.document.querySelectorAll("select[id], input[id]")) {
    const now = to.document.getElementById(before.id);
    if (!now || (now.value === before.value && now.checked === before.checked)) continue;
    if (now.tagName === "SELECT" && ![...now.options].some((one) => one.value === before.value)) continue;
    now.value = before.value;
    now.checked = before.checked;
    for (const kind of ["input", "change"]) now.dispatchEvent(new to.Event(kind, { bubbles: true }));
  }
  const { id, top, y } = place(from);
  const section = id && to.document.getElementById(id);
  to.scrollTo({ top: section ? to.scrollY + section.getBoundingClientRect().top - top : y ?? from.scrollY, behavior: "instant" });
};

const renew = () => new Promise((loaded) => {
  const next = document.createElement("iframe");
  next.title = "Report";
  next.className = "loading";
  next.src = "report";
  next.addEventListener("load", () => {
    if (shown) carry(shown.contentWindow, next.contentWindow);
    next.className = "";
    if (shown) shown.remove();
    shown = next;
    loaded();
  });
  document.querySelector("main").append(next);
});

const poll = async () => {
  try {
    const answer = await fetch("state", { cache: "no-store" });
    if (answer.status === 403) {
      say("This address has no valid token: open the one that `rayul watch` printed last.", true);
    } else {
      const now = await answer.json();
      if (now.version !== version) {
        await renew();
        version = now.version;
        document.documentElement.dataset.loads = String(Number(document.documentElement.dataset.loads || 0) + 1);
      }
      say(now.line, false);
    }
  } catch {
    say("Nothing answers: `rayul watch` or the tunnel to it has ended. Below is the last report that was loaded.", true);
  }
  setTimeout(poll, every);
};
poll();
