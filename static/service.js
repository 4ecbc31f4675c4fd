// What shows the browser's notifications, and answers a click on one; news.js asks for it. It is registered for
// static/ alone, so it stands between no page and the server.
"use strict";

self.addEventListener("install", () => self.skipWaiting());
// by Web Push, sealed for this browser (messages/push.py): a page of Rowcast need not be open
self.addEventListener("push", (event) => {
  const { title, text, tag, url } = event.data.json();
  event.waitUntil(self.registration.showNotification(title, { body: text, tag, data: { url } }));
});
self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(bring(event.notification.data.url));
});

// The tab that shows a page, if there is one.
async function tabOf(url) {
  const tabs = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  return tabs.find((tab) => new URL(tab.url).pathname === new URL(url).pathname);
}
async function bring(url) {
  const tab = await tabOf(url);
  return tab ? tab.focus() : self.clients.openWindow(url);
}
