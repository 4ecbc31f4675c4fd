def test_a_thousand_users_are_posted(server, api):
    job = server.begin(concurrency=50)
    done = server.ended(job)
    assert done["completed"] == done["total"] == 1000
    assert len(api.log()) == 1000
    print(api.log()[0])
def test_page(server, open_page):
    page = open_page(server.url)
    page.get_by_role("form", name="Start update_users").get_by_role("button", name="Start").click()
    page.locator("#job-status[data-status=completed]").wait_for()
